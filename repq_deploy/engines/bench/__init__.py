"""Measuring engines and other models side by side, each in its own process."""
