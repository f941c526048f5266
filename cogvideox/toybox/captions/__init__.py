"""Captions of scenes, and parsing of captions."""
