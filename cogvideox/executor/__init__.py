"""Batch work in this process, in local worker processes, on a Ray cluster, or as one job of a job array."""
