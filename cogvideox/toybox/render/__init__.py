"""Analytic rendering of scenes to frames."""
