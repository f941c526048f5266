"""Scores of the models of an ablation, and the metrics that name them."""
