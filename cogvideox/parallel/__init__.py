"""Distributed training and generation over the ranks started by `torchrun` (docs/parallel.md)."""
