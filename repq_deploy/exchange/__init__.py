"""What NVIDIA's own tools take of us: reference tensors, a file for a TensorRT by version, DeepStream's settings."""
