"""The same settings on a cluster."""
