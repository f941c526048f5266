"""Clips to latents: rendered, encoded by the VAE once, kept in safetensors, read at random.

Axes: `b` clips, `c` channels, `t` frames, `h w` pixels or latent positions. Latents are unscaled.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cogvideox.atomic_io import cannot_read, remove_stale_files
from cogvideox.config import to_dict
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.prefetch import ahead
from cogvideox.state_dict.safetensors_io import save_state
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior
from cogvideox.video.transform import to_model

SHARD = 512  # clips in one file: what an interruption can cost
IDLE = 600.0  # seconds after which a half-written shard is a killed process's; other runs may be writing theirs

OnProgress = Callable[[int, int], None]
"""Called after each shard that was not in the cache, with (clips at hand, clips in all)."""


def scene(clips: ToyboxClips, index: int) -> Scene:
    """The scene that clip `index` shows."""
    return sample_scene(clips.first_seed + index, clips.grammar, split="training", seconds=clips.seconds)


def render(clips: ToyboxClips, indices: Sequence[int]) -> Float[Tensor, "b 3 t h w"]:
    """The pixels of some clips, in [-1, 1]."""
    frames = render_scenes(
        [scene(clips, index) for index in indices],
        num_frames=clips.num_frames,
        height=clips.height,
        width=clips.width,
        fps=clips.fps,
    )
    return to_model(frames)


class LatentTable:
    """The posteriors of all clips of a set, in memory, as bfloat16.

    `mean` and `logvar` are [clips c t h w].
    """

    def __init__(self, mean: Float[Tensor, "n c t h w"], logvar: Float[Tensor, "n c t h w"]) -> None:
        self.mean, self.logvar = mean, logvar

    def __len__(self) -> int:
        return len(self.mean)

    def posterior(self, indices: Sequence[int]) -> Posterior:
        """The posteriors of some clips, [b c t h w], in float32."""
        rows = torch.as_tensor(indices)
        return Posterior(self.mean[rows].float(), self.logvar[rows].float())


def encode(
    vae: CausalVAE,
    clips: ToyboxClips,
    cache: str | Path,
    *,
    batch_size: int = 16,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> LatentTable:
    """The latents of `clips` under `vae`, from `cache` as far as they are there.

    The cache has a folder for each encoder and kind of clip, named by a hash of its weights, the settings and one
    rendered clip; in it lie shards of 512 clips, each written whole. So nothing is encoded twice, a stop costs one
    shard, a larger set of the same clips reuses a smaller one, a decoder may learn on, and the latents of another
    encoder or renderer are never mistaken for these. Half-written shards of killed processes are removed. Clips are
    rendered ahead by `workers` processes (`dataset.prefetch`).

    Raises:
        UserError: the cache cannot be read or written.
    """
    folder = Path(cache) / fingerprint(vae, clips)
    remove_stale_files(folder, idle=IDLE)
    starts = range(0, clips.num_clips, SHARD)
    wanted = [range(first, min(first + SHARD, clips.num_clips)) for first in starts]
    files = [folder / f"latents-{number:05d}.safetensors" for number in range(len(wanted))]
    shards = [_read(file, least=len(indices)) for file, indices in zip(files, wanted)]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    batches = [wanted[k][start : start + batch_size] for k in missing for start in range(0, len(wanted[k]), batch_size)]
    with closing(ahead(partial(render, clips), batches, workers=workers, pin=True)) as rendered:
        for number in missing:
            num_batches = -(-len(wanted[number]) // batch_size)
            shards[number] = shard = _encode_shard(vae, islice(rendered, num_batches))
            save_state(shard, files[number])
            if on_progress is not None:
                on_progress(wanted[number].stop, clips.num_clips)
    mean, logvar = (torch.cat([shard[name] for shard in shards if shard]) for name in ("mean", "logvar"))
    return LatentTable(mean[: clips.num_clips], logvar[: clips.num_clips])


def fingerprint(vae: CausalVAE, clips: ToyboxClips) -> str:
    """A short hash of all that a clip's latents depend on. The decoder is no part of it, nor are scale and number."""
    made_by = to_dict(vae.config) | {"scaling_factor": None}, to_dict(clips) | {"num_clips": None}
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    digest.update(render(clips, [0]).numpy().tobytes())
    for name, value in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode_shard(vae: CausalVAE, rendered: Iterator[Tensor]) -> dict[str, Tensor]:
    device = next(vae.parameters()).device
    means, logvars = [], []
    for video in rendered:
        posterior = vae.encode(video.to(device, non_blocking=True))
        means.append(posterior.mean.to("cpu", torch.bfloat16))
        logvars.append(posterior.logvar.to("cpu", torch.bfloat16))
    return {"mean": torch.cat(means), "logvar": torch.cat(logvars)}


def _read(path: Path, least: int) -> dict[str, Tensor] | None:
    """A shard, or None where there is none, it is damaged or of too few clips: it is a cache, and can be made again."""
    try:
        shard = load_file(path)
        return shard if len(shard["mean"]) >= least else None
    except (FileNotFoundError, SafetensorError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
