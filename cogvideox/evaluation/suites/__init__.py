"""Suites: which videos are generated from which prompts, and how they are scored."""
