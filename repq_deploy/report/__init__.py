"""A page about files: what is known of a model, its engines and their speed, as one HTML file."""
