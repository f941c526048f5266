"""Scores of sets of videos: Frechet and kernel distances in any features (FVD, rFVD, KVD), similarity to prompts."""
