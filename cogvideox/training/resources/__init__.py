"""Estimated resources of training runs, and whether a run fits in memory."""
