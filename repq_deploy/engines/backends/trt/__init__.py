"""TensorRT and TensorRT-RTX: building in a child process, running through CUDA."""
