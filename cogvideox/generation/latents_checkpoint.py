"""A file that keeps denoised latents until the video is written, so that a failure to decode or save loses no work.

It holds, for each clip of a request, the latents at the transformer's scale and the state of the random generator after
them, so that the clips that follow are the same.
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


class LatentsCheckpoint:
    """The denoised latents of one request.

    Args:
        path: the file. Its content is used if it belongs to the same request, and replaced otherwise.
        request: everything that the video depends on, as JSON values.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path = path
        self._request = json.dumps(request, sort_keys=True)
        self._tensors: dict[str, Tensor] = {}
        with suppress(UserError):  # no such file, or not one of ours
            stored = open_state(path)
            if stored.metadata.get("request") == self._request:
                self._tensors = {name: tensor.clone() for name, tensor in stored.items()}

    def get(self, clip: int, generator: torch.Generator) -> Float[Tensor, "1 c t h w"] | None:
        """The latents of a clip, or None if they are not there. Sets the generator to its state after them."""
        if f"{clip}.latents" not in self._tensors:
            return None
        generator.set_state(self._tensors[f"{clip}.generator"])
        return self._tensors[f"{clip}.latents"]

    def put(self, clip: int, latents: Float[Tensor, "1 c t h w"], generator: torch.Generator) -> None:
        """Write the latents of a clip. If the file cannot be written, only a warning is issued."""
        self._tensors |= {f"{clip}.latents": latents.cpu().contiguous(), f"{clip}.generator": generator.get_state()}
        try:
            save_state(self._tensors, self.path, metadata={"request": self._request})
        except UserError as error:
            warnings.warn(f"the denoised latents are not kept: {error}", stacklevel=2)
