"""Training of the shipped model's transformer on the toybox, together with a small text encoder."""
