"""repq-deploy: from a timm Vision Transformer to a low-bit engine that computes what was calibrated."""

__version__ = "0.1.0"
