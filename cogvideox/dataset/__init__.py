"""Datasets: folders of clips (`ingest/`), encoded latents (`latents/`), and training batches."""
