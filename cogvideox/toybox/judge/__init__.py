"""Judges: recover facts from pixels, and score videos against scenes and prompts."""
