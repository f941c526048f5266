"""The signals by name."""

from typing import Any

from cogvideox.curation.signals.perceptual_hash import PerceptualHash

SIGNALS: dict[str, type[Any]] = {
    "phash": PerceptualHash,
}
"""Classes of signals; their fields are the parameters that a recipe may set."""
