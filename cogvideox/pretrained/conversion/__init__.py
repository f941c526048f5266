"""Conversion of weights from SAT, diffusers and single files."""
