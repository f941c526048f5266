"""The toybox suite: prompts with known facts, read back from the pixels without any model."""
