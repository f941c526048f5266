"""A model as a folder: the diffusers layout, in and out, and `cogvideox.json`, which says how to use the model."""
