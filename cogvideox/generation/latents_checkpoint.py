"""Save denoised latents until the video is written, so that denoising is not repeated if decoding or saving fails.

For each clip of a request, the file contains the latents at the transformer's scale and the state of the random
generator after that clip, so that the remaining clips are unchanged.
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
        path: checkpoint file. It is reused if it belongs to the same request, and overwritten otherwise.
        request: JSON values of everything that determines the video.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self.path = path
        self._request = json.dumps(request, sort_keys=True)
        self._tensors: dict[str, Tensor] = {}
        with suppress(UserError):  # the file does not exist or is not a latents checkpoint
            stored = open_state(path)
            if stored.metadata.get("request") == self._request:
                self._tensors = {name: tensor.clone() for name, tensor in stored.items()}

    def get(self, clip: int, generator: torch.Generator) -> Float[Tensor, "1 c t h w"] | None:
        """Return the saved latents of a clip, and set the generator to its state after that clip; None if not saved."""
        if f"{clip}.latents" not in self._tensors:
            return None
        generator.set_state(self._tensors[f"{clip}.generator"])
        return self._tensors[f"{clip}.latents"]

    def put(self, clip: int, latents: Float[Tensor, "1 c t h w"], generator: torch.Generator) -> None:
        """Save the latents of a clip. If the file cannot be written, issue a warning instead of an error."""
        self._tensors |= {f"{clip}.latents": latents.cpu().contiguous(), f"{clip}.generator": generator.get_state()}
        try:
            save_state(self._tensors, self.path, metadata={"request": self._request})
        except UserError as error:
            warnings.warn(f"could not save the denoised latents: {error}", stacklevel=2)
