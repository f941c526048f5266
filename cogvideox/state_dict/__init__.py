"""Tensors by name: files that hold them, and the tables that translate one naming into another."""
