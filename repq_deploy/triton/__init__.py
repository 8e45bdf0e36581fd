"""Model repositories for Triton Inference Server: an engine as one of its backends loads it, with nothing to derive."""
