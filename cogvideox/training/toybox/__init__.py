"""Training of a small text-to-video model from scratch on rendered toybox clips."""
