"""A served model as a value: the client of the Open Inference Protocol, over REST or gRPC."""
