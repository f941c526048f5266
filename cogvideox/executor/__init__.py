"""Batch processing in this process, in local worker processes, on a Ray cluster, or as part of a job array."""
