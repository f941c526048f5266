"""Long work on many rows: in this process, in several here, on a Ray cluster, or as one of the jobs of an array."""
