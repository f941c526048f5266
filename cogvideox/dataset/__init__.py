"""What training reads: clips as latents, encoded once and open to random access."""
