"""Engines as a service: the Open Inference Protocol, version 2, over REST and gRPC."""
