"""Loading and saving of model folders in the diffusers layout, plus `cogvideox.json` for the settings of a model."""
