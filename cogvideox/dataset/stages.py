"""The two stages of encoding: captions through T5, pixels through the VAE, each batch into a shard of its own.

Every clip goes through the networks by itself, so that the result depends neither on its neighbours nor on how the
work is split over processes and machines.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cogvideox.bundle.layout import describe
from cogvideox.bundle.text import load_text
from cogvideox.bundle.vae import load_vae
from cogvideox.dataset import frames
from cogvideox.dataset.plan import View
from cogvideox.dataset.shards import Placed, save_shard
from cogvideox.errors import UserError
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.vae.posterior import Posterior
from cogvideox.video.transform import to_model

AHEAD = 3  # clips that are read while one is encoded
WHOLE = 480 * 720  # pixels of a frame that the encoder takes in one piece; larger ones go in exact strips

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


@dataclass(frozen=True)
class EncodeTexts:
    """The stage that makes text shards: (key, caption) in, `Made` out."""

    model: str
    folder: Path
    machine: Machine

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, str]]], list[Made]]:
        """See `engine.stage.Stage`."""
        about = describe(self.model)
        device, dtype = self.machine.open(worker)
        tokenizer = Tokenizer.from_folder(about.path / "tokenizer")
        encoder = load_text(about, device=device, dtype=dtype)

        def features(caption: str) -> Tensor:
            ids = tokenizer.encode([caption], about.settings.text_length)
            return _finite("text encoder", encoder(ids.to(device))[0])

        @torch.no_grad()
        def work(batch: Sequence[tuple[str, str]]) -> list[Made]:
            tensors, errors = {}, {}
            for key, caption in batch:
                try:
                    tensors[key] = features(caption)
                except UserError as error:
                    errors[key] = f"its caption cannot be used: {error}"
            placed = _save(self.folder, "text", tensors)
            return [Made(key, placed.get(key), errors.get(key)) for key, _ in batch]

        return work


@dataclass(frozen=True)
class EncodeViews:
    """The stage that makes latent shards: (key, view) in, `Made` out."""

    model: str
    folder: Path
    machine: Machine

    def open(self, worker: int) -> Callable[[Sequence[tuple[str, View]]], list[Made]]:
        """See `engine.stage.Stage`."""
        about = describe(self.model)
        device, dtype = self.machine.open(worker)
        vae = load_vae(about.path).to(device, dtype)

        def posterior(view: View, pixels: Tensor) -> Posterior:
            video = to_model(pixels.to(device)).to(dtype)[None]
            return vae.encode(video, strips=max(1, round(view.height * view.width / WHOLE)))

        @torch.no_grad()
        def work(batch: Sequence[tuple[str, View]]) -> list[Made]:
            tensors, errors = {}, {}
            for (key, view), pixels in zip(batch, _ahead(_read, [view for _, view in batch])):
                if isinstance(pixels, str):
                    errors[key] = pixels
                    continue
                try:
                    found = posterior(view, pixels)
                    both = _finite("VAE", found.mean[0]), _finite("VAE", found.logvar[0])
                    tensors[f"{key}.mean"], tensors[f"{key}.logvar"] = both
                except UserError as error:
                    errors[key] = str(error)
            placed = _save(self.folder, "latents", tensors)
            return [Made(key, placed.get(f"{key}.mean"), errors.get(key)) for key, _ in batch]

        return work


def _read(view: View) -> Tensor | str:
    """The pixels [t h w 3] of a view, or why there are none. Whatever a file holds, it must not stop the others."""
    try:
        return torch.from_numpy(frames.read(view))
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
