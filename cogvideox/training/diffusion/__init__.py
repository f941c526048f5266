"""Training of the transformer on encoded clips: packed rows, stages, LoRA."""
