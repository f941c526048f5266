"""State dicts: reading and writing of weights files, strict loading, and renaming between code bases."""
