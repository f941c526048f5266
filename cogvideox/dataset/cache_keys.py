"""Content-based cache keys: hashes of exactly the inputs that an encoded tensor depends on.

A changed input gets a new key, so it is encoded again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cogvideox.geometry import NormStatistics, encode_chunks

if TYPE_CHECKING:
    from cogvideox.state_dict.lazy import LazyStateDict

# A weights hash covers this many evenly spaced samples of each tensor, of this many bytes. Training changes all
# weights, so samples suffice; reading all of T5 (10 GB) would dominate the start-up time.
NUM_SAMPLES, SAMPLE_BYTES = 16, 2**14
VERSION = 1  # version of frame reading and resizing; increase it when the latents change


def hash_values(*values: Any) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def window_id(content_id: str, start: float | None, end: float | None) -> str:
    """Return the id of a time window (in seconds) of the file `content_id`, which is the id of the whole file."""
    return content_id if start is None and end is None else hash_values(content_id, start, end)


def text_key(caption: str, length: int, text_encoder: str) -> str:
    """Return the key of a prompt embedding of `length` tokens; `text_encoder` is the hash of the encoder."""
    return hash_values("text", VERSION, caption, length, text_encoder)


def latents_key(
    window_id: str, fps: float, size: tuple[int, int, int], vae: str, norm_statistics: NormStatistics = "chunk"
) -> str:
    """Return the key of a window's latents.

    The latents and the key of a window of a single chunk are the same for both kinds of norm statistics.

    Args:
        size: frames, height and width.
        vae: hash of the VAE's encoder.
    """
    in_chunks = encode_chunks(size[0], norm_statistics) == encode_chunks(size[0])
    return hash_values("latents", VERSION, window_id, fps, *size, vae, *(() if in_chunks else (norm_statistics,)))


def first_frames_key(window_id: str, num_copies: int, size: tuple[int, int], vae: str) -> str:
    """Return the key of a window's noise-augmented first frame (height, width), encoded `num_copies` times."""
    return hash_values("images", VERSION, window_id, num_copies, *size, vae)


def weights_hash(state: "LazyStateDict", names: Iterable[str], settings: Any) -> str:
    """Return a hash of `settings`, and of the names, shapes, dtypes and samples of the bytes of tensors in a file."""
    import torch

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(names):
        tensor = state.read_transient(name)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.contiguous().flatten().view(torch.uint8)
        last = max(0, len(content) - SAMPLE_BYTES)
        for start in sorted({last * i // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)}):
            digest.update(content[start : start + SAMPLE_BYTES].numpy().tobytes())
    return digest.hexdigest()[:16]
