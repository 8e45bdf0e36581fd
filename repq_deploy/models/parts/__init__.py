"""What encoders of one library have in common, one concept each; families put them together."""
