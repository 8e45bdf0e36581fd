"""What runs over the images: one calibration, its statistics and losses, and how a killed one goes on."""
