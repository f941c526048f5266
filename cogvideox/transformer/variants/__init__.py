"""Variants of the transformer for ablations: the baselines with which the paper compares its design."""
