"""By what encoded things are known: hashes of all that they depend on, and of nothing else. Imports no torch."""

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideox.state_dict.lazy import LazyStateDict

# How many pieces of each tensor are hashed, spread over it, and how many bytes of each piece. Training moves every
# number, and to read all ten thousand million bytes of T5 would take longer than all else that is done before a run.
NUM_SAMPLED, SAMPLED = 16, 2**14
VERSION = 1  # of how frames are read and resized; another number means other latents


def key(*parts: Any) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def identity(content: str, *bounds: float | None) -> str:
    """The id of a piece of something whose own id is `content`: of all of it, that id."""
    return content if all(bound is None for bound in bounds) else key(content, *bounds)


def text_key(caption: str, length: int, text_encoder: str) -> str:
    """What the features of a caption are known by."""
    return key("text", VERSION, caption, length, text_encoder)


def weights_hash(state: "LazyStateDict", names: Iterable[str], settings: Any) -> str:
    """A hash of some tensors of a file and of plain settings: of names, shapes, types and bytes from all over each."""
    import torch

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(names):
        tensor = state.read_transient(name)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.contiguous().flatten().view(torch.uint8)
        last = max(0, len(content) - SAMPLED)
        for start in sorted({last * i // (NUM_SAMPLED - 1) for i in range(NUM_SAMPLED)}):
            digest.update(content[start : start + SAMPLED].numpy().tobytes())
    return digest.hexdigest()[:16]
