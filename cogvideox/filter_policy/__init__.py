"""Filter policies: which clips are used, at which training step. Filtered rows are never deleted. Imports no torch."""
