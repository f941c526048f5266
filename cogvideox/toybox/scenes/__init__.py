"""Scenes: the three grammars, and sampling of scenes from a seed."""
