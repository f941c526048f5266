"""The packed rows of each step, from stores of encoded clips.

Noise, timestep and whatever else is random about a clip follow from the seed and its place in the order of all samples,
and which clips a step has is planned alike in every process (`dataset.mixture`). So a step trains on the same, however
many ranks share it, and a resumed run on what it would have had.

Axes: c t h w latent channels, frames, height and width; n text tokens, d their width.
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
from cogvideox.dataset.mixture import Mixture, MixtureSettings, Plan, Sample, State, Table
from cogvideox.dataset.packing import balance
from cogvideox.dataset.prefetch import ahead
from cogvideox.diffusion.timesteps import explicit_uniform, random_uniform
from cogvideox.errors import UserError
from cogvideox.filter_policy import Columns
from cogvideox.geometry import latent_padding
from cogvideox.records import LatentSample, PackedBatch
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.image_conditioning import pad_image_latents, repeat_first_frame
from cogvideox.transformer.position import check_learned_positions, token_grid
from cogvideox.vae.posterior import Posterior

_SAMPLE = 0x73616D70  # keeps these random numbers apart from others that are drawn from the same seed


@runtime_checkable
class Store(Protocol):
    """Encoded clips, open to random access: `dataset.latents.latent_store.LatentStore`.

    columns: what a policy chooses by. shapes: latent frames, height and width of each clip.
    """

    @property
    def columns(self) -> Columns: ...
    @property
    def shapes(self) -> Int[np.ndarray, "clips 3"]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> LatentSample: ...


@dataclass(frozen=True, eq=False)
class Step:
    """What one process computes of an optimizer step, and what the whole of it is.

    batches: the rows of this process, to be accumulated.
    num_clips: of all processes; a clip's loss counts for one of so many.
    num_tokens: of all processes, text and video.
    useful: tokens over those that the rows have room for.
    kept: of each source, the share of clips that the policy keeps.
    after: where the order stands when this step is done.
    """

    batches: tuple[PackedBatch, ...]
    num_clips: int
    num_tokens: int
    useful: float
    kept: Mapping[str, float]
    after: State

    def pin_memory(self) -> "Step":
        """The same in pinned memory."""
        return replace(self, batches=tuple(batch.pin_memory() for batch in self.batches))


class Loader:
    """Steps without end, from where its state is. A part of a checkpoint.

    Args:
        stores: of each source that the settings name, its clips.
        transformer: of the model that is trained; what its patches and positions cannot take is refused. Where it
            takes an image, the stores have the first frames of their clips.
        scaling_factor: what unscaled latents are multiplied by.
        image_scaling_factor: likewise, those of the images that clips begin with.
        null_text: what stands in the place of dropped captions; texts have its length.
        num_timesteps: of the schedule.
        rank, num_ranks: which share of the rows is this process's. Processes that share clips, as in sequence
            parallelism, have the same rank.

    Raises:
        UserError: as `Mixture`; a clip that does not divide into patches; rows that do not divide among the ranks.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
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
        tables = {name: _table(name, store, transformer, len(null_text)) for name, store in self.stores.items()}
        self.mixture = Mixture(tables, settings, seed)
        self.state = self.mixture.start()
        balance([0] * settings.num_rows, num_ranks)  # refuses rows that do not divide among the ranks

    def steps(self, until: int, *, workers: int = 0, pin: bool = False) -> Generator[Step, None, None]:
        """The steps before number `until`, made ahead by so many processes (`dataset.prefetch`). When a step is handed
        out, the state is the one after it."""
        for step in ahead(self.make, self._plans(until), workers=workers, pin=pin):
            self.state = step.after
            yield step

    def state_dict(self) -> dict[str, Any]:
        return to_dict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises UserError when it is the state of other sources."""
        found = from_dict(State, state, where="the state of the data")
        self.mixture.check(found)
        self.state = found

    def make(self, plan: Plan) -> Step:
        """This process's share of a planned step, read and drawn."""
        shares, times = plan.shares(self.num_ranks), self._timesteps(plan)
        starts = np.cumsum([0, *map(len, plan.rows)])
        batches = tuple(self._batch(plan.rows[k], times[starts[k] : starts[k + 1]]) for k in shares[self.rank])
        room = self.settings.row_tokens * self.settings.num_rows
        return Step(batches, plan.num_clips, plan.num_tokens, plan.num_tokens / room, plan.kept, plan.after)

    def _plans(self, until: int) -> Iterator[Plan]:
        state = self.state
        while state.step < until:
            plan = self.mixture.plan(state)
            state = plan.after
            yield plan

    def _timesteps(self, plan: Plan) -> Int[Tensor, " slots"]:
        """Those of all clips of a step, row by row: every clip is a slot."""
        given = self.seed, plan.after.step - 1, plan.num_clips, self.num_timesteps
        if self.settings.strata == "random":
            return random_uniform(*given)
        if self.settings.strata == "slots":
            return explicit_uniform(*given)
        rank_of = {row: rank for rank, rows in enumerate(plan.shares(self.num_ranks)) for row in rows}
        return explicit_uniform(*given, ranks=[rank_of[k] for k, row in enumerate(plan.rows) for _ in row])

    def _batch(self, row: tuple[Sample, ...], timestep: Int[Tensor, " s"]) -> PackedBatch:
        clips = [self._clip(sample) for sample in row]
        return PackedBatch(
            latents=tuple(clip.latents for clip in clips),
            noise=tuple(clip.noise for clip in clips),
            text=torch.stack([clip.text for clip in clips]),
            timestep=timestep,
            clip_ids=tuple(clip.name for clip in clips),
            image=tuple(clip.image for clip in clips if clip.image is not None) or None,
        )

    def _clip(self, sample: Sample) -> "_Visit":
        """What is drawn of a clip at one visit."""
        stored = self.stores[sample.source][sample.index]
        rng = np.random.default_rng((_SAMPLE, self.seed, sample.position))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        posterior = Posterior(stored.mean[None].float(), stored.logvar[None].float())
        latents = posterior.sample(generator)[0] * self.scaling_factor
        latents = repeat_first_frame(latents, latent_padding(latents.shape[1], self.transformer.patch[0]))
        text = self.null_text if rng.random() < self.settings.text_dropout else stored.text
        noise = torch.randn(latents.shape, generator=generator)
        image = self._image(stored, latents.shape[1], rng, generator) if self.transformer.takes_image else None
        return _Visit(stored.clip_id, latents, noise, text.float(), image)

    def _image(
        self, stored: LatentSample, num_latents: int, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """One of the copies of the clip's first frame beside zeros, or zeros alone.

        Raises:
            UserError: the store has none.
        """
        if stored.image_mean is None or stored.image_logvar is None:
            raise UserError(f"the first frame of {stored.clip_id} is not encoded: encode again with --first-frames")
        which = slice(k := int(rng.integers(stored.image_mean.shape[1])), k + 1)
        posterior = Posterior(stored.image_mean[None, :, which].float(), stored.image_logvar[None, :, which].float())
        image = pad_image_latents(posterior.sample(generator)[0] * self.image_scaling_factor, num_latents)
        return torch.zeros_like(image) if rng.random() < self.settings.image_dropout else image


class _Visit(NamedTuple):
    """What a row has of one clip."""

    name: str
    latents: Tensor
    noise: Tensor
    text: Tensor
    image: Tensor | None


def _table(name: str, store: Store, transformer: TransformerConfig, num_text: int) -> Table:
    """What the mixture needs to know of a store."""
    shapes, of_clip = np.unique(store.shapes, axis=0, return_inverse=True)
    num_tokens = []
    for t, h, w in shapes.tolist():
        try:
            grid = token_grid(transformer, t + latent_padding(t, transformer.patch[0]), h, w)
            if transformer.use_learned_positional_embeddings:
                check_learned_positions(transformer, grid, num_text)
        except UserError as error:
            raise UserError(f"clips of {name} do not fit the transformer: {error}") from error
        num_tokens.append(num_text + math.prod(grid))
    lengths = np.array(num_tokens, dtype=int)[of_clip.reshape(-1)]
    return Table(lengths, store.shapes[:, 0] == 1, store.columns)
