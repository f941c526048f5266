"""The signals by name."""

from typing import Any

from cogvideox.curation.signals.defects import Defects
from cogvideox.curation.signals.edits import Edits
from cogvideox.curation.signals.faces import Faces
from cogvideox.curation.signals.models.aesthetics import Aesthetics
from cogvideox.curation.signals.models.brisque import Brisque
from cogvideox.curation.signals.models.objects import Objects
from cogvideox.curation.signals.models.speech import Speech
from cogvideox.curation.signals.models.tags import Tags
from cogvideox.curation.signals.motion import Motion
from cogvideox.curation.signals.perceptual_hash import PerceptualHash
from cogvideox.curation.signals.picture import Picture
from cogvideox.curation.signals.screen import Screen
from cogvideox.curation.signals.stillness import Stillness
from cogvideox.curation.signals.technical import Technical
from cogvideox.curation.signals.text import Text

SIGNALS: dict[str, type[Any]] = {
    "aesthetics": Aesthetics,
    "brisque": Brisque,
    "defects": Defects,
    "edits": Edits,
    "faces": Faces,
    "motion": Motion,
    "objects": Objects,
    "phash": PerceptualHash,
    "picture": Picture,
    "screen": Screen,
    "speech": Speech,
    "stillness": Stillness,
    "tags": Tags,
    "technical": Technical,
    "text": Text,
}
"""Classes of signals; their fields are the parameters that a recipe may set."""
