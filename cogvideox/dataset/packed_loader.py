"""Packed data loader: read the clips chosen by `dataset.mixture`, drop captions at random, and build packed batches.

All random values of a clip (noise, timestep, dropout) depend only on the seed and its position in the sequence of all
samples, and every process plans the same steps. So a step trains on the same data for any number of ranks, and a
resumed run continues bit-exactly from the data position (`MixtureState`) in its checkpoint.

Axes: `c t h w` latent channels, frames, height and width; `n` text tokens, `d` their width.
"""

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.config import from_dict, to_dict
from cogvideox.dataset.mixture import ClipTable, Mixture, MixtureSettings, MixtureState, Sample, StepPlan
from cogvideox.dataset.packing import balance_rows
from cogvideox.dataset.prefetch import prefetch
from cogvideox.diffusion.timesteps import explicit_uniform, random_uniform
from cogvideox.errors import UserError
from cogvideox.filter_policy.rows import Columns
from cogvideox.geometry import num_padding_latents
from cogvideox.records import LatentSample, PackedBatch
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.image_conditioning import pad_image_latents
from cogvideox.transformer.position import check_learned_positions, token_grid
from cogvideox.transformer.temporal_padding import prepend_padding
from cogvideox.vae.latent_scaling import scale_latents
from cogvideox.vae.posterior import Posterior

_SAMPLE_STREAM, _CAPTION_STREAM = 0x73616D70, 0x63617074  # separate random streams for different uses of the seed


@runtime_checkable
class ClipStore(Protocol):
    """Random access to encoded clips, as `dataset.latents.latent_store.LatentStore` provides it.

    Attributes:
        columns: columns for filter policies.
        shapes: latent frames, height and width of each clip.
    """

    @property
    def columns(self) -> Columns: ...
    @property
    def shapes(self) -> Int[np.ndarray, "clips 3"]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> LatentSample: ...


@runtime_checkable
class CaptioningStore(Protocol):
    """A store that makes a new caption each time a clip is used."""

    def sample(self, index: int, rng: np.random.Generator) -> LatentSample:
        """Return a clip with a new caption."""
        ...


@dataclass(frozen=True, eq=False)
class StepBatches:
    """This rank's batches of an optimizer step, with statistics of the whole step.

    Attributes:
        batches: the packed rows of this process, for gradient accumulation.
        num_clips: clips over all processes; the loss is the mean over this many clips.
        num_tokens: text and video tokens over all processes.
        packing_efficiency: fraction of the rows' token budget that is used.
        kept_fractions: fraction of each source's clips that the policy keeps.
        collapsed: sizes of which the policy keeps hardly any clips.
        state_after: the state of the mixture after this step.
    """

    batches: tuple[PackedBatch, ...]
    num_clips: int
    num_tokens: int
    packing_efficiency: float
    kept_fractions: Mapping[str, float]
    collapsed: tuple[str, ...]
    state_after: MixtureState

    def pin_memory(self) -> "StepBatches":
        """Copy the batches to pinned memory."""
        return replace(self, batches=tuple(batch.pin_memory() for batch in self.batches))


class PackedLoader:
    """An infinite sequence of training steps of packed batches. Its state, the data position, is part of a checkpoint.

    Args:
        stores: the clips of each source in the settings.
        transformer: config of the model. Clips must fit its patches and positions. For an image-to-video model, the
            stores must contain first frames.
        scaling_factor: multiplier of the latents.
        image_scaling_factor: multiplier of the first frames' latents.
        null_text: embedding of the unconditional prompt; all prompt embeddings have the same length.
        num_timesteps: timesteps of the noise schedule.
        rank, num_ranks: data-parallel rank and world size. Ranks that process the same clips, as in sequence
            parallelism, have the same `rank`.

    Raises:
        UserError: a clip is not divisible into patches; the rows are not divisible among the ranks; see also `Mixture`.
    """

    def __init__(
        self,
        stores: Mapping[str, ClipStore],
        settings: MixtureSettings,
        transformer: TransformerConfig,
        *,
        seed: int,
        scaling_factor: float,
        image_scaling_factor: float = 1.0,
        null_text: Float[Tensor, "n d"],
        num_timesteps: int = 1000,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.stores = {source.store: stores[source.store] for source in settings.sources}
        self.settings, self.transformer, self.seed = settings, transformer, seed
        self.scaling_factor, self.image_scaling_factor = scaling_factor, image_scaling_factor
        self.null_text, self.num_timesteps = null_text, num_timesteps
        self.rank, self.num_ranks = rank, num_ranks
        tables = {
            name: clip_table(name, store.columns, store.shapes, transformer, len(null_text))
            for name, store in self.stores.items()
        }
        self.mixture = Mixture(tables, settings, seed)
        self.state = self.mixture.initial_state()
        balance_rows([0] * settings.num_rows, num_ranks)  # raises if the rows cannot be divided among the ranks

    def steps(self, until: int, *, workers: int = 0, pin_memory: bool = False) -> Generator[StepBatches, None, None]:
        """Yield the steps up to but excluding `until`, prefetched by `workers` processes (`dataset.prefetch`).

        When a step is yielded, `state` is already the state after that step.
        """
        for step in prefetch(self.load_step, self._plans(until), workers=workers, pin_memory=pin_memory):
            self.state = step.state_after
            yield step

    def state_dict(self) -> dict[str, Any]:
        """Return the data position for a checkpoint: a `MixtureState` as plain data."""
        return to_dict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the data position from a checkpoint.

        Raises:
            UserError: the data sources differ from those of the checkpoint.
        """
        restored = from_dict(MixtureState, state, where="the state of the data loader")
        self.mixture.check_state(restored)
        self.state = restored

    def load_step(self, plan: StepPlan) -> StepBatches:
        """Read this rank's rows of a planned step, and sample their noise and timesteps."""
        rows, timesteps = plan.rows_by_rank(self.num_ranks)[self.rank], self._timesteps(plan)
        starts = np.cumsum([0, *map(len, plan.rows)])
        budget = self.settings.row_tokens * self.settings.num_rows
        return StepBatches(
            batches=tuple(self._batch(plan.rows[k], timesteps[starts[k] : starts[k + 1]]) for k in rows),
            num_clips=plan.num_clips,
            num_tokens=plan.num_tokens,
            packing_efficiency=plan.num_tokens / budget,
            kept_fractions=plan.kept_fractions,
            collapsed=plan.collapsed,
            state_after=plan.state_after,
        )

    def _plans(self, until: int) -> Iterator[StepPlan]:
        state = self.state
        while state.step < until:
            plan = self.mixture.plan_step(state)
            state = plan.state_after
            yield plan

    def _timesteps(self, plan: StepPlan) -> Int[Tensor, " clips"]:
        """Sample the timesteps of all clips of a step, row by row."""
        arguments = self.seed, plan.state_after.step - 1, plan.num_clips, self.num_timesteps
        if self.settings.timestep_sampling == "random":
            return random_uniform(*arguments)
        if self.settings.timestep_sampling == "explicit_uniform":
            return explicit_uniform(*arguments)
        rows_by_rank = plan.rows_by_rank(self.settings.timestep_ranks or self.num_ranks)
        rank_of = {row: rank for rank, rows in enumerate(rows_by_rank) for row in rows}
        return explicit_uniform(*arguments, ranks=[rank_of[k] for k, row in enumerate(plan.rows) for _ in row])

    def _batch(self, row: tuple[Sample, ...], timestep: Int[Tensor, " s"]) -> PackedBatch:
        clips = [self._load_clip(sample) for sample in row]
        return PackedBatch(
            latents=tuple(clip.latents for clip in clips),
            noise=tuple(clip.noise for clip in clips),
            text=torch.stack([clip.text for clip in clips]),
            timestep=timestep,
            clip_ids=tuple(clip.clip_id for clip in clips),
            image=tuple(clip.image for clip in clips if clip.image is not None) or None,
        )

    def _load_clip(self, sample: Sample) -> "_ClipTensors":
        """Read a clip, and sample its latents, noise, dropout and image."""
        store = self.stores[sample.source]
        caption_rng = np.random.default_rng((_CAPTION_STREAM, self.seed, sample.position))
        captioning = isinstance(store, CaptioningStore)
        stored = store.sample(sample.index, caption_rng) if captioning else store[sample.index]
        rng = np.random.default_rng((_SAMPLE_STREAM, self.seed, sample.position))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        posterior = Posterior(stored.mean[None].float(), stored.logvar[None].float())
        latents = scale_latents(posterior.sample(generator)[0], self.scaling_factor)
        latents = prepend_padding(latents, num_padding_latents(latents.shape[1], self.transformer.patch[0]))
        text = self.null_text if rng.random() < self.settings.text_dropout else stored.text
        noise = torch.randn(latents.shape, generator=generator)
        image = (
            self._image_latents(stored, latents.shape[1], rng, generator)
            if self.transformer.is_image_to_video
            else None
        )
        return _ClipTensors(stored.clip_id, latents, noise, text.float(), image)

    def _image_latents(
        self, stored: LatentSample, num_latents: int, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """Return the image latents of a clip: one encoding of its first frame, then zeros; all zeros on dropout.

        Raises:
            UserError: the store has no first frames.
        """
        if stored.image_mean is None or stored.image_logvar is None:
            raise UserError(
                f"the first frame of {stored.clip_id} is not encoded: run `cogvideox encode` again with --first-frames"
            )
        copy = slice(k := int(rng.integers(stored.image_mean.shape[1])), k + 1)
        posterior = Posterior(stored.image_mean[None, :, copy].float(), stored.image_logvar[None, :, copy].float())
        image = pad_image_latents(scale_latents(posterior.sample(generator)[0], self.image_scaling_factor), num_latents)
        return torch.zeros_like(image) if rng.random() < self.settings.image_dropout else image


class _ClipTensors(NamedTuple):
    """The tensors of one clip in a row."""

    clip_id: str
    latents: Tensor
    noise: Tensor
    text: Tensor
    image: Tensor | None


def clip_table(
    name: str,
    columns: Columns,
    shapes: Int[np.ndarray, "clips 3"],
    transformer: TransformerConfig,
    text_length: int,
) -> ClipTable:
    """Build the table of a store for the mixture.

    Args:
        columns, shapes: see `ClipStore`.

    Raises:
        UserError: a clip is not divisible into patches, or has a size that the learned positions do not cover.
    """
    unique_shapes, shape_of_clip = np.unique(shapes, axis=0, return_inverse=True)
    num_tokens = []
    for t, h, w in unique_shapes.tolist():
        try:
            grid = token_grid(transformer, t + num_padding_latents(t, transformer.patch[0]), h, w)
            if transformer.use_learned_positional_embeddings:
                check_learned_positions(transformer, grid, text_length)
        except UserError as error:
            raise UserError(f"clips of {name} do not fit the transformer: {error}") from error
        num_tokens.append(text_length + math.prod(grid))
    lengths = np.array(num_tokens, dtype=int)[shape_of_clip.reshape(-1)]
    names = ("num_frames", "height", "width")
    in_pixels = all(column in columns for column in names)
    sizes = np.array([columns[column] for column in names]).T if in_pixels else shapes
    return ClipTable(lengths, shapes[:, 0] == 1, columns, sizes)
