"""Conversion of SAT checkpoints, diffusers folders and single files: detect, plan, write."""
