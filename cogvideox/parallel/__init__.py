"""Several processes as one: training and generation over ranks that `torchrun` has started (docs/parallel.md)."""
