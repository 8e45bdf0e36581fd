"""From the quantized model to the canonical ONNX, and from there, by passes, to what each backend runs."""
