"""Scenes: the grammar of facts and random scenes."""
