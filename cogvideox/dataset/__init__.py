"""Datasets: folders of clips (`ingest/`), encoded latents (`latents/`), and batches for training from them."""
