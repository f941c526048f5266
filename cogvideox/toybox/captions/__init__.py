"""Captions of scenes, and parsing of captions and prompts into facts."""
