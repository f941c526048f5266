"""State dicts: reading and writing weights files, strict loading, and key renaming between code bases."""
