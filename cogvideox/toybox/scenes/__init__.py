"""Scenes: the two grammars, and sampling of scenes from a seed."""
