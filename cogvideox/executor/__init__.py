"""Batch processing in the current process, in local worker processes, on a Ray cluster, or in a job array."""
