"""Batch tasks for encoding: captions with T5 and clip windows with the VAE, one shard per batch.

Items are encoded one at a time, so the result does not depend on batches, processes and machines.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor

from cogvideox.dataset.ingest.clip_windows import ClipWindow
from cogvideox.dataset.ingest.frame_reader import read_window
from cogvideox.dataset.latents.encode_memory import READ_AHEAD, EncodingBudget
from cogvideox.dataset.latents.latent_store import TensorLocation, save_shard
from cogvideox.errors import UserError
from cogvideox.geometry import NormStatistics
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.image_conditioning import add_image_noise
from cogvideox.video.transform import to_model

T = TypeVar("T")


@dataclass(frozen=True)
class TaskResult:
    """The result of one item: the location of its tensor, or the reason why it could not be encoded."""

    key: str
    location: TensorLocation | None
    error: str | None = None


@dataclass(frozen=True)
class EncodeDevice:
    """Device of the networks, the name of their dtype, and the number of threads (None: torch's default)."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None

    def open(self, worker: int) -> tuple[torch.device, torch.dtype]:
        """Set this process's number of threads, and return its device and dtype.

        Workers on "cuda" are distributed over all GPUs.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = self.device
        if device == "cuda":
            device = f"cuda:{worker % torch.cuda.device_count()}"
        return torch.device(device), getattr(torch, self.dtype)


@dataclass(frozen=True)
class EncodeCaptions:
    """Batch task that writes text shards: maps (key, caption) to `TaskResult`."""

    model: str
    folder: Path
    device: EncodeDevice

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, str]]], list[TaskResult]]:
        """See `executor.base.BatchTask`."""
        spec = read_spec(self.model)
        device, dtype = self.device.open(worker)
        tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
        encoder = load_network(spec.path, spec.text_encoder, device=device, dtype=dtype)

        @torch.no_grad()
        def encode_batch(batch: Sequence[tuple[str, str]]) -> list[TaskResult]:
            tensors, errors = {}, {}
            for key, caption in batch:
                try:
                    ids = tokenizer.encode([caption], spec.settings.text_length)
                    tensors[key] = _to_storage("text encoder", encoder(ids.to(device))[0])
                except UserError as error:
                    errors[key] = f"its caption cannot be used: {error}"
            stored = _save(self.folder, "text", tensors)
            return [TaskResult(key, stored.get(key), errors.get(key)) for key, _ in batch]

        return encode_batch


@dataclass(frozen=True)
class EncodeWindows:
    """Batch task that writes shards of latents or of first frames: maps (key, window) to `TaskResult`.

    Attributes:
        budget: memory for this worker's VAE; windows that do not fit are rejected.
        norm_statistics: see `CausalVAE.encode`.
        first_frames: number of encodings of the first frame, with new noise each time; None: encode the whole window.
    """

    model: str
    folder: Path
    device: EncodeDevice
    budget: EncodingBudget
    norm_statistics: NormStatistics = "chunk"
    first_frames: int | None = None

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, ClipWindow]]], list[TaskResult]]:
        """See `executor.base.BatchTask`."""
        spec, copies = read_spec(self.model), self.first_frames
        device, dtype = self.device.open(worker)
        vae = load_network(spec.path, spec.vae, device=device, dtype=dtype)

        def posterior(key: str, pixels: Tensor, slicing: VAESlicing) -> tuple[Tensor, Tensor]:
            if copies is None:
                video = to_model(pixels.to(device))[None]
            else:
                video = add_image_noise(to_model(pixels), copies, key)
            encoded = vae.encode(
                video.to(device, dtype),
                norm_statistics=self.norm_statistics,
                strips=slicing.strips,
                offload=slicing.offload,
            )
            if copies is None:
                return encoded.mean[0], encoded.logvar[0]
            return rearrange(encoded.mean, "k c 1 h w -> c k h w"), rearrange(encoded.logvar, "k c 1 h w -> c k h w")

        @torch.no_grad()
        def encode_batch(batch: Sequence[tuple[str, ClipWindow]]) -> list[TaskResult]:
            tensors, errors = {}, {}
            fitting: list[tuple[str, ClipWindow, VAESlicing]] = []
            for key, full_window in batch:
                window = full_window if copies is None else replace(full_window, num_frames=1)
                try:
                    slicing = self.budget.choose_slicing(
                        spec.vae, window.size, self.norm_statistics, batch_size=copies or 1
                    )
                    fitting.append((key, window, slicing))
                except UserError as error:
                    errors[key] = str(error)
            frames = _read_ahead(_read, [window for _, window, _ in fitting])
            for (key, _, slicing), pixels in zip(fitting, frames):
                if isinstance(pixels, str):
                    errors[key] = pixels
                    continue
                try:
                    mean, logvar = (_to_storage("VAE", moment) for moment in posterior(key, pixels, slicing))
                    tensors |= {f"{key}.mean": mean, f"{key}.logvar": logvar}
                except UserError as error:
                    errors[key] = str(error)
            stored = _save(self.folder, "latents" if copies is None else "images", tensors)
            return [TaskResult(key, stored.get(f"{key}.mean"), errors.get(key)) for key, _ in batch]

        return encode_batch


def _read(window: ClipWindow) -> Tensor | str:
    """Read the pixels [t h w 3] of a window. Return the reason if that fails: no file content stops the run."""
    try:
        return torch.from_numpy(read_window(window))
    except MemoryError:
        raise
    except UserError as error:
        return str(error).removeprefix(f"cannot read {window.clip.source}: ")
    except Exception as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def _read_ahead(read: Callable[[ClipWindow], T], windows: Sequence[ClipWindow]) -> Iterator[T]:
    """Yield `read(window)` for each window in order. Threads prefetch the next few windows."""
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        pending = deque(pool.submit(read, window) for window in windows[:READ_AHEAD])
        for window in [*windows[READ_AHEAD:], *[None] * READ_AHEAD]:
            if pending:
                yield pending.popleft().result()
            if window is not None:
                pending.append(pool.submit(read, window))


def _to_storage(network: str, x: Tensor) -> Tensor:
    """Move a tensor to the CPU in bfloat16.

    Raises:
        UserError: the tensor has infinite or NaN values.
    """
    if not bool(x.isfinite().all()):
        raise UserError(f"the {network} computed infinite or NaN values for it; try a wider --dtype, such as float32")
    return x.to("cpu", torch.bfloat16).contiguous()


def _save(folder: Path, kind: str, tensors: dict[str, Tensor]) -> dict[str, TensorLocation]:
    if not tensors:
        return {}
    file = save_shard(folder, kind, tensors)
    return {name: TensorLocation(file, tuple(tensor.shape)) for name, tensor in tensors.items()}
