"""What a transformer run learns from, step by step, and what it is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.dataset.encode import LatentTable, scene
from cogvideox.diffusion.timesteps import TIMESTEP_SAMPLING
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.caption import ALL_WORDS, caption
from cogvideox.toybox.scene import Scene
from cogvideox.training.draws import clip_indices, numpy_generator, torch_generator
from cogvideox.training.settings import TransformerTraining


@dataclass(frozen=True)
class Batch:
    """Unscaled latents, noise, timesteps and prompt ids of the samples of one step."""

    latents: Float[Tensor, "b c t h w"]
    noise: Float[Tensor, "b c t h w"]
    timestep: Int[Tensor, "b"]
    ids: Int[Tensor, "b n"]


class Batches:
    """Makes the batch of any step from the settings and the step alone."""

    def __init__(self, settings: TransformerTraining) -> None:
        self.settings = settings
        self.tokenizer = train_toy_tokenizer(ALL_WORDS, settings.text_encoder.vocab_size)

    def draw(self, table: LatentTable, step: int) -> Batch:
        """The next clips in order, with a fresh posterior sample, caption, noise and timestep for each. On the CPU."""
        settings, run = self.settings, self.settings.run
        indices = clip_indices(run.seed, step, run.batch_size, len(table))
        latents = table.posterior(indices).sample(torch_generator("posterior", run.seed, step))
        draw_timesteps = TIMESTEP_SAMPLING[settings.timesteps]
        return Batch(
            latents=latents,
            noise=torch.randn(latents.shape, generator=torch_generator("noise", run.seed, step)),
            timestep=draw_timesteps(run.seed, step, run.batch_size, settings.schedule.num_train_timesteps),
            ids=self.ids(self.captions(indices, step)),
        )

    def captions(self, indices: Sequence[int], step: int) -> list[str]:
        """A caption for each clip, in a style and wording drawn anew; for a share of them the empty prompt."""
        rng = numpy_generator("caption", self.settings.run.seed, step)
        styles, captions = self.settings.caption_styles, []
        for index in indices:
            style, wording, fate = styles[rng.integers(len(styles))], int(rng.integers(2**31)), rng.random()
            dropped = fate < self.settings.text_dropout
            captions.append("" if dropped else self._caption(scene(self.settings.clips, index), style, wording))
        return captions

    def held_out(self, number: int) -> tuple[list[Scene], list[str]]:
        """The first scenes that are never trained on, each with a caption that names all its facts."""
        scenes = [scene(self.settings.validation, index) for index in range(number)]
        return scenes, [self._caption(one, "plain", index, complete=True) for index, one in enumerate(scenes)]

    def ids(self, prompts: Sequence[str]) -> Int[Tensor, "b n"]:
        """Prompts as the text encoder takes them."""
        return self.tokenizer.encode(prompts, self.settings.transformer.max_text_seq_length)

    def _caption(self, shown: Scene, style: str, wording: int, *, complete: bool = False) -> str:
        return caption(shown, style, wording, image=self.settings.clips.num_frames == 1, complete=complete)
