"""Types of the functions through which scorers call models.

Axes: t frames, h w height and width in pixels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from jaxtyping import Float, Shaped, UInt8

Frames = UInt8[np.ndarray, "t h w 3"]

ActionClassifier = Callable[[Frames, str], Mapping[str, float]]
"""Maps 16 frames and the expected action to probabilities of actions by lower-case name."""
Captioner = Callable[[Frames], Sequence[str]]
"""Maps frames to one caption each."""
ObjectDetector = Callable[[Frames], Sequence[AbstractSet[str]]]
"""Maps frames to the names of the objects in each."""
FlowEstimator = Callable[[Shaped[np.ndarray, "t h w 3"]], Iterable[Float[np.ndarray, "h w 2"]]]
"""Maps frames to the flow of each pair of consecutive frames, in pixels, as (right, down)."""
ImageText = Callable[[Frames, str], Float[np.ndarray, " t"]]
"""Maps frames and a string to similarities, on CLIP's scale of about 0 to 0.4."""
Embedder = Callable[[Frames], Float[np.ndarray, "t d"]]
"""Maps frames to unit-length embeddings."""
