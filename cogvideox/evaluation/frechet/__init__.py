"""Distances between the distributions of two sets of videos, in any features: FVD, rFVD, KVD."""
