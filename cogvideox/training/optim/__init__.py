"""Optimizers (AdamW, 8-bit AdamW, Muon), gradient clipping and the learning-rate schedule."""
