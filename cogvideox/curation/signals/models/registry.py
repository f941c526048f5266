"""The published model files that signals read."""

from cogvideox.curation.signals.models import brisque

MODEL_FILES = (brisque.MODEL, brisque.RANGE)
"""All of them; `tools/fetch_signal_models.py` fetches those that packages contain."""
