"""Model folders: the diffusers layout, read and written, with `cogvideox.json` for the settings of a model."""
