"""Datasets: folders of clips (`ingest/`), encoded latents (`latents/`), and packed training batches."""
