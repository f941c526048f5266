"""Encode clips and captions, and store the results."""
