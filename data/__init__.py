"""Text for calibration, training and evaluation: where it comes from, and how it is packed."""
