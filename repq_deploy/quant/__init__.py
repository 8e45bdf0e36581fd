"""What a quantizer is, how it finds its range, and the layers and the model that hold quantizers."""
