"""Batch processing in this process, in local worker processes, on a Ray cluster, or in a job array."""
