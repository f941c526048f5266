"""Latents of rendered toybox clips, encoded once and cached in safetensors shards.

Axes: `b` clips, `c` channels, `t` frames, `h w` pixels or latent positions. Latents are unscaled.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
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
from cogvideox.dataset.prefetch import prefetch
from cogvideox.geometry import NormStatistics, encode_chunks
from cogvideox.state_dict.safetensors_io import save_state
from cogvideox.toybox.render.renderer import render_scenes
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.posterior import Posterior
from cogvideox.video.transform import to_model

SHARD_SIZE = 512  # number of clips per file; an interruption loses at most one file
IDLE = 600.0  # seconds without a write after which a temporary file is considered stale

OnProgress = Callable[[int, int], None]
"""Called with the number of clips done and the total: before each batch that is encoded, and after the last one."""


def clip_scene(clips: ToyboxClips, index: int) -> Scene:
    """Return the scene of clip `index`."""
    return sample_scene(clips.first_seed + index, clips.grammar, split="training", seconds=clips.seconds)


def render_clips(clips: ToyboxClips, indices: Sequence[int]) -> Float[Tensor, "b 3 t h w"]:
    """Render the clips at `indices`, with values in [-1, 1]."""
    frames = render_scenes(
        [clip_scene(clips, index) for index in indices],
        num_frames=clips.num_rendered,
        height=clips.height,
        width=clips.width,
        fps=clips.fps,
    )
    return to_model(frames)


class LatentTable:
    """VAE posteriors of all clips of a set, in memory.

    Attributes:
        mean, logvar: [clips c t h w], bfloat16.
    """

    def __init__(self, mean: Float[Tensor, "n c t h w"], logvar: Float[Tensor, "n c t h w"]) -> None:
        self.mean, self.logvar = mean, logvar

    def __len__(self) -> int:
        return len(self.mean)

    def posterior(self, indices: Sequence[int]) -> Posterior:
        """Return the posteriors of the clips at `indices`, [b c t h w], in float32."""
        rows = torch.as_tensor(indices)
        return Posterior(self.mean[rows].float(), self.logvar[rows].float())


def encode_toybox(
    vae: CausalVAE,
    clips: ToyboxClips,
    cache: str | Path,
    *,
    batch_size: int = 16,
    workers: int = 0,
    norm_statistics: NormStatistics = "chunk",
    bfloat16: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> LatentTable:
    """Return the latents of clips, from the cache where available.

    The cache has a folder for each combination of encoder and clip settings, named by `fingerprint`, with atomically
    written shards of 512 clips. A larger set of clips reuses the shards of a smaller one, and training only the decoder
    does not invalidate the cache. Temporary files of killed processes are removed.

    Args:
        cache: the cache folder.
        workers: number of processes that render clips in advance (`dataset.prefetch`).
        norm_statistics: see `CausalVAE.encode`.
        bfloat16: encode in mixed precision; ignored on a CPU, where convolutions are computed in float32.
        on_progress: see `OnProgress`. An error that it raises stops the encoding; complete shards are kept.

    Raises:
        UserError: the cache cannot be read or written.
    """
    bfloat16 = bfloat16 and next(vae.parameters()).device.type != "cpu"
    folder = Path(cache) / fingerprint(vae, clips, norm_statistics=norm_statistics, bfloat16=bfloat16)
    remove_stale_files(folder, idle=IDLE)
    starts = range(0, clips.num_clips, SHARD_SIZE)
    indices = [range(start, min(start + SHARD_SIZE, clips.num_clips)) for start in starts]
    files = [folder / f"latents-{k:05d}.safetensors" for k in range(len(indices))]
    shards = [_read_shard(file, min_clips=len(shard)) for file, shard in zip(files, indices)]
    missing = [k for k, shard in enumerate(shards) if shard is None]
    batches = [
        indices[k][start : start + batch_size] for k in missing for start in range(0, len(indices[k]), batch_size)
    ]
    with closing(prefetch(partial(render_clips, clips), batches, workers=workers, pin_memory=True)) as rendered:
        done = clips.num_clips - sum(map(len, batches))
        for k in missing:
            encoded = []
            for video in islice(rendered, -(-len(indices[k]) // batch_size)):
                on_progress(done, clips.num_clips)
                encoded.append(_encode_batch(vae, video, norm_statistics, bfloat16))
                done += len(video)
            shards[k] = shard = {name: torch.cat([batch[name] for batch in encoded]) for name in ("mean", "logvar")}
            save_state(shard, files[k])
    if missing:
        on_progress(done, clips.num_clips)
    mean, logvar = (torch.cat([shard[name] for shard in shards if shard]) for name in ("mean", "logvar"))
    return LatentTable(mean[: clips.num_clips], logvar[: clips.num_clips])


def fingerprint(
    vae: CausalVAE, clips: ToyboxClips, *, norm_statistics: NormStatistics = "chunk", bfloat16: bool = False
) -> str:
    """Return a hash of everything that a clip's latents depend on, without decoder, scale and number of clips."""
    settings = to_dict(vae.config) | {"scaling_factor": None}, to_dict(clips) | {"num_clips": None}
    # Settings without effect are left out, so that older caches stay valid.
    if not clips.first_frames:
        del settings[1]["first_frames"]
    if encode_chunks(clips.num_rendered, norm_statistics) != encode_chunks(clips.num_rendered):
        settings[1]["norm_statistics"] = norm_statistics
    if bfloat16:
        settings[1]["precision"] = "bfloat16"
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(render_clips(clips, [0]).numpy().tobytes())
    for name, value in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _encode_batch(
    vae: CausalVAE, video: Float[Tensor, "b 3 t h w"], norm_statistics: NormStatistics, bfloat16: bool
) -> dict[str, Tensor]:
    device = next(vae.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        posterior = vae.encode(video.to(device, non_blocking=True), norm_statistics=norm_statistics)
    return {name: getattr(posterior, name).to("cpu", torch.bfloat16) for name in ("mean", "logvar")}


def _read_shard(path: Path, min_clips: int) -> dict[str, Tensor] | None:
    """Read a shard; None if it is missing, damaged or has too few clips, and must be encoded again."""
    try:
        shard = load_file(path)
        return shard if len(shard["mean"]) >= min_clips else None
    except (FileNotFoundError, SafetensorError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
