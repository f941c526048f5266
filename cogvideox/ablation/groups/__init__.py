"""The ablations, one module per group. Imports no torch."""
