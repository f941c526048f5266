"""Latents that are finished, on the disk until the video is: what takes minutes to denoise is not lost to what comes
after.

One file holds, for each clip of a request, its latents at the transformer's scale and where the random generator stood
after them, so that whatever is made next is what it would have been.
"""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.state_dict.safetensors_io import open_state, save_state

SUFFIX = ".latents.safetensors"


class Finished:
    """The finished latents of one request.

    Args:
        path: where they are kept.
        what: all that the video depends on. What is at `path` is used if it is of the same, and otherwise replaced.
    """

    def __init__(self, path: Path, what: dict[str, Any]) -> None:
        self.path = path
        self._what = json.dumps(what, sort_keys=True)
        self._kept: dict[str, Tensor] = {}
        with suppress(UserError):  # none there, or one that was not written by this
            stored = open_state(path)
            if stored.metadata.get("request") == self._what:
                self._kept = {name: tensor.clone() for name, tensor in stored.items()}

    def get(self, clip: int, generator: torch.Generator) -> Float[Tensor, "1 c t h w"] | None:
        """The latents of a clip, if they are there; the generator is then put where it was after them."""
        if f"{clip}.latents" not in self._kept:
            return None
        generator.set_state(self._kept[f"{clip}.generator"])
        return self._kept[f"{clip}.latents"]

    def put(self, clip: int, latents: Float[Tensor, "1 c t h w"], generator: torch.Generator) -> None:
        """Writes the latents of a clip beside those of the clips before. A disk that refuses them is only warned of."""
        self._kept |= {f"{clip}.latents": latents.cpu().contiguous(), f"{clip}.generator": generator.get_state()}
        try:
            save_state(self._kept, self.path, metadata={"request": self._what})
        except UserError as error:
            warnings.warn(f"the finished latents are not kept: {error}", stacklevel=2)
