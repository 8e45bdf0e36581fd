"""What export measures of each quantizer, and how a file records it."""
