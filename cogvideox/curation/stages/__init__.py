"""The stages before the signals (probe, split, cut) and after them (duplicates)."""
