"""Readers of videos, images and sound as players show them: containers, times, geometry and color."""
