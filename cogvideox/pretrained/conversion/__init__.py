"""Conversion of SAT checkpoints, diffusers folders and single files: detection, planning and writing."""
