"""From a canonical ONNX file to an engine that is proven to compute the same, with its manifest and reference I/O."""
