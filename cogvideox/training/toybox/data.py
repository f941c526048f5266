"""Batches and validation prompts of toybox training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import LatentTable, clip_scene
from cogvideox.diffusion.timesteps import explicit_uniform, random_uniform
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.captions.caption import caption_scene, caption_words
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.training.config import ToyboxTraining, due
from cogvideox.training.rng import clip_indices, numpy_generator, torch_generator


class ToyboxBatch(NamedTuple):
    """Unscaled latents, noise, timesteps and token ids of the prompts of one step."""

    latents: Float[Tensor, "b c t h w"]
    noise: Float[Tensor, "b c t h w"]
    timestep: Int[Tensor, "b"]
    ids: Int[Tensor, "b n"]


class ToyboxData:
    """Makes batches of clips or images that depend only on the settings and the step."""

    def __init__(self, settings: ToyboxTraining) -> None:
        self.settings = settings
        self.tokenizer = train_toy_tokenizer(caption_words(settings.clips.grammar), settings.text_encoder.vocab_size)

    def make_batch(self, clips: LatentTable, images: LatentTable | None, step: int) -> ToyboxBatch:
        """Make the batch of step `step` (0-based) on the CPU: shuffled clips, each with a new latent sample, caption,
        noise and timestep.

        Every `settings.image_interval` steps, the samples are `images`, the first frames of the same clips with the
        captions of the clips, shuffled independently. They teach at which side a toy that "moves left" starts; without
        them, directions of motion were not learned (docs/results/toybox.md).
        """
        settings, run, interval = self.settings, self.settings.run, self.settings.image_interval
        if images is not None and due(step + 1, interval):
            table, index, size = images, step // interval, run.batch_size * settings.images_per_clip
        else:
            table, index, size = clips, step - (step // interval if interval else 0), run.batch_size
        indices = clip_indices(run.seed, index, size, len(table))
        latents = table.posterior(indices).sample(torch_generator("posterior", run.seed, step))
        sample_timesteps = explicit_uniform if settings.timestep_sampling == "explicit_uniform" else random_uniform
        return ToyboxBatch(
            latents=latents,
            noise=torch.randn(latents.shape, generator=torch_generator("noise", run.seed, step)),
            timestep=sample_timesteps(run.seed, step, size, settings.schedule.num_train_timesteps),
            ids=self.tokenize(self.captions(indices, step)),
        )

    def captions(self, indices: Sequence[int], step: int) -> list[str]:
        """Return a caption for each clip, in a random style and wording. Dropped captions are empty."""
        rng = numpy_generator("caption", self.settings.run.seed, step)
        styles, captions = self.settings.caption_styles, []
        for index in indices:
            style, wording = styles[rng.integers(len(styles))], int(rng.integers(2**31))
            dropped = rng.random() < self.settings.text_dropout
            captions.append("" if dropped else _caption(self.settings.clips, index, style, wording))
        return captions

    def held_out(self, num_scenes: int) -> tuple[list[Scene], list[str]]:
        """Return the first `num_scenes` held-out scenes, and captions that name all facts of each."""
        clips = self.settings.validation
        prompts = [_caption(clips, index, "plain", index, complete=True) for index in range(num_scenes)]
        return [clip_scene(clips, index) for index in range(num_scenes)], prompts

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "b n"]:
        """Return the token ids of prompts, padded to the text length of the transformer."""
        return self.tokenizer.encode(prompts, self.settings.transformer.max_text_seq_length)


def _caption(clips: ToyboxClips, index: int, style: str, wording: int, *, complete: bool = False) -> str:
    return caption_scene(clip_scene(clips, index), style, wording, image=clips.num_frames == 1, complete=complete)
