"""The stages of encoding: captions through T5, pixels through the VAE, each batch into a shard of its own.

Every clip goes through the networks by itself, so that the result depends neither on its neighbours nor on how the
work is split over processes and machines.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.dataset.ingest import frame_reader
from cogvideox.dataset.ingest.clip_windows import View
from cogvideox.dataset.latents.latent_store import Placed, save_shard
from cogvideox.errors import UserError
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.vae.posterior import Posterior
from cogvideox.video.transform import to_model

AHEAD = 3  # clips that are read while one is encoded
WHOLE = 480 * 720  # pixels of a frame that the encoder takes in one piece; larger ones go in exact strips

# The noise on images that videos begin with: of what scale its logarithm is on average, and how it is spread. It keeps
# the model from copying the image into every frame (paper, appendix D; the numbers are the original code's).
LOG_SCALE, LOG_SPREAD = -3.0, 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """What became of one thing: where it lies now, or why it could not be made."""

    key: str
    placed: Placed | None
    error: str | None = None


@dataclass(frozen=True)
class Machine:
    """Where networks run: a device, a floating-point type of torch by name, and threads (None: as torch has it)."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None

    def open(self, worker: int) -> tuple[torch.device, torch.dtype]:
        """Prepares this process, and says where and in what its networks compute."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = self.device
        if device == "cuda":  # several workers share the GPUs of the machine evenly
            device = f"cuda:{worker % torch.cuda.device_count()}"
        return torch.device(device), getattr(torch, self.dtype)


def unusable(error: UserError) -> str:
    """Why a clip is rejected whose caption the tokenizer refuses."""
    return f"its caption cannot be used: {error}"


@dataclass(frozen=True)
class EncodeTexts:
    """The stage that makes text shards: (key, caption) in, `Made` out."""

    model: str
    folder: Path
    machine: Machine

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, str]]], list[Made]]:
        """See `executor.base.Stage`."""
        spec = read_spec(self.model)
        device, dtype = self.machine.open(worker)
        tokenizer = Tokenizer.from_folder(spec.path / "tokenizer")
        encoder = load_network(spec.path, spec.text_encoder, device=device, dtype=dtype)

        def features(caption: str) -> Tensor:
            ids = tokenizer.encode([caption], spec.settings.text_length)
            return _finite("text encoder", encoder(ids.to(device))[0])

        @torch.no_grad()
        def work(batch: Sequence[tuple[str, str]]) -> list[Made]:
            tensors, errors = {}, {}
            for key, caption in batch:
                try:
                    tensors[key] = features(caption)
                except UserError as error:
                    errors[key] = unusable(error)
            placed = _save(self.folder, "text", tensors)
            return [Made(key, placed.get(key), errors.get(key)) for key, _ in batch]

        return work


@dataclass(frozen=True)
class EncodeViews:
    """The stage that makes shards of latents, or of images: (key, view) in, `Made` out.

    first_frames: None for all frames of a view; or of the first alone, so often, each time under noise of its own.
    """

    model: str
    folder: Path
    machine: Machine
    first_frames: int | None = None

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, View]]], list[Made]]:
        """See `executor.base.Stage`."""
        spec, num = read_spec(self.model), self.first_frames
        device, dtype = self.machine.open(worker)
        vae = load_network(spec.path, spec.vae, device=device, dtype=dtype)

        def encoded(video: Float[Tensor, "b 3 t h w"]) -> Posterior:
            height, width = video.shape[3:]
            return vae.encode(video.to(device, dtype), strips=max(1, round(height * width / WHOLE)))

        def posterior(key: str, pixels: Tensor) -> tuple[Tensor, Tensor]:
            if num is None:
                found = encoded(to_model(pixels.to(device))[None])
                return found.mean[0], found.logvar[0]
            found = encoded(noised(to_model(pixels), num, key))
            return rearrange(found.mean, "k c 1 h w -> c k h w"), rearrange(found.logvar, "k c 1 h w -> c k h w")

        @torch.no_grad()
        def work(batch: Sequence[tuple[str, View]]) -> list[Made]:
            tensors, errors = {}, {}
            views = [view if num is None else replace(view, num_frames=1) for _, view in batch]
            for (key, _), pixels in zip(batch, _ahead(_read, views)):
                if isinstance(pixels, str):
                    errors[key] = pixels
                    continue
                try:
                    both = [_finite("VAE", moment) for moment in posterior(key, pixels)]
                    tensors[f"{key}.mean"], tensors[f"{key}.logvar"] = both
                except UserError as error:
                    errors[key] = str(error)
            placed = _save(self.folder, "latents" if num is None else "images", tensors)
            return [Made(key, placed.get(f"{key}.mean"), errors.get(key)) for key, _ in batch]

        return work


def noised(image: Float[Tensor, "3 1 h w"], num: int, key: str) -> Float[Tensor, "num 3 1 h w"]:
    """So many copies of an image in -1..1, each under normal noise of a scale whose logarithm is normal too (paper,
    appendix D). What is drawn follows from the key."""
    generator = torch.Generator().manual_seed(int(key[:8], 16))  # of a seed, torch uses 32 bits
    scale = (LOG_SCALE + LOG_SPREAD * torch.randn(num, generator=generator)).exp()
    return image + scale[:, None, None, None, None] * torch.randn(num, *image.shape, generator=generator)


def _read(view: View) -> Tensor | str:
    """The pixels [t h w 3] of a view, or why there are none. Whatever a file holds, it must not stop the others."""
    try:
        return torch.from_numpy(frame_reader.read(view))
    except MemoryError:
        raise
    except UserError as error:
        return str(error).removeprefix(f"cannot read {view.clip.source}: ")
    except Exception as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def _ahead(make: Callable[[View], T], views: Sequence[View]) -> Iterator[T]:
    """`make` of each view in order, a few of them in threads ahead of the one that is worked on."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque(pool.submit(make, view) for view in views[:AHEAD])
        for view in [*views[AHEAD:], *[None] * AHEAD]:
            if waiting:
                yield waiting.popleft().result()
            if view is not None:
                waiting.append(pool.submit(make, view))


def _finite(network: str, x: Tensor) -> Tensor:
    """As it is stored.

    Raises:
        UserError: it has values that are no numbers.
    """
    if not bool(x.isfinite().all()):
        raise UserError(f"the {network} makes values of it that are not finite; try another --dtype")
    return x.to("cpu", torch.bfloat16).contiguous()


def _save(folder: Path, kind: str, tensors: dict[str, Tensor]) -> dict[str, Placed]:
    if not tensors:
        return {}
    file = save_shard(folder, kind, tensors)
    return {name: Placed(file, tuple(tensor.shape)) for name, tensor in tensors.items()}
