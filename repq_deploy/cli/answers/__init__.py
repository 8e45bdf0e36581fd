"""What commands print: one file for each answer that takes more than a few lines."""
