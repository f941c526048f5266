"""Encoding of clips and captions, and storage of the results."""
