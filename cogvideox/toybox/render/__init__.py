"""Rendering of scenes to frames."""
