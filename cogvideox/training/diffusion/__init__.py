"""Training of the transformer on encoded clips in packed rows: pretraining stages, fine-tuning, LoRA."""
