"""Rendered toybox clips as a store for the packed loader: latents in memory, and a new caption for every use."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import BFloat16, Int
from torch import Tensor

from cogvideox.dataset.config import ToyboxSource
from cogvideox.dataset.latents.toybox_latents import LatentTable, clip_scene
from cogvideox.errors import UserError
from cogvideox.filter_policy.rows import Columns
from cogvideox.records import LatentSample
from cogvideox.text.encoder import T5Encoder
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.toybox.captions.caption import caption_scene

Embed = Callable[[str], BFloat16[Tensor, "n d"]]


@dataclass(frozen=True, eq=False)
class CaptionEmbedder:
    """Embedding of captions on the CPU with a small text encoder."""

    encoder: T5Encoder
    tokenizer: Tokenizer
    length: int

    @torch.no_grad()
    def __call__(self, caption: str) -> BFloat16[Tensor, "n d"]:
        return self.encoder(self.tokenizer.encode(caption, self.length))[0].bfloat16()


class ToyboxStore:
    """Encoded toybox clips with the interface of `LatentStore`.

    Raises:
        UserError: no clip has the number of toys that the source requires.

    Attributes:
        indices: the clips of the table that the source uses.
        columns: num_frames, height and width, for filter policies.
        shapes: latent frames, height and width of each clip.
    """

    def __init__(self, source: ToyboxSource, table: LatentTable, embed: Embed) -> None:
        self.source, self.table, self.embed = source, table, embed
        clips = source.clips
        self.indices = list(range(len(table)))
        if source.num_toys is not None:
            self.indices = [index for index in self.indices if len(clip_scene(clips, index).toys) == source.num_toys]
        if not self.indices:
            raise UserError(f"none of the {len(table)} clips of {source} has that number: increase num_clips")
        num_clips = len(self.indices)
        self.shapes: Int[np.ndarray, "n 3"] = np.tile(np.array(table.mean.shape[2:]), (num_clips, 1))
        sizes = {"num_frames": clips.num_rendered, "height": clips.height, "width": clips.width}
        self.columns: Columns = {name: np.full(num_clips, value) for name, value in sizes.items()}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> LatentSample:
        """Return a clip with a caption that names all facts."""
        return self._sample(self.indices[index], "plain", index, complete=True)

    def sample(self, index: int, rng: np.random.Generator) -> LatentSample:
        """Return a clip with a new caption in a random style."""
        styles = self.source.caption_styles
        style, seed = styles[int(rng.integers(len(styles)))], int(rng.integers(2**31))
        return self._sample(self.indices[index], style, seed)

    def _sample(self, index: int, style: str, seed: int, *, complete: bool = False) -> LatentSample:
        clips = self.source.clips
        caption = caption_scene(clip_scene(clips, index), style, seed, image=clips.num_frames == 1, complete=complete)
        return LatentSample(
            clip_id=f"{clips} {clips.first_seed + index}",
            mean=self.table.mean[index],
            logvar=self.table.logvar[index],
            text=self.embed(caption),
            fps=clips.fps,
            source_size=(clips.height, clips.width),
            crop=(0, 0, clips.height, clips.width),
            vae="",
            text_encoder="",
        )
