"""Data mixture: choose the clips of each training step from weighted sources, shuffle, filter and pack them.

Only plans steps: `training.diffusion.latent_stores` opens the stores, and `dataset.packed_loader` reads the clips.

All samples of a run form one sequence. The clip at a position depends on the seed, the settings and the previous
samples, but not on the number of processes: every process plans the same steps and reads only its own rows. The next
step depends only on the small `MixtureState` after the last step, so a resumed run continues bit-exactly.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from cogvideox.config import check_minimum
from cogvideox.dataset.buckets import Buckets
from cogvideox.dataset.config import CaptionDropout
from cogvideox.dataset.packing import Packing, balance_rows, has_full_rows, pack_rows
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Policy
from cogvideox.filter_policy.rows import Columns
from cogvideox.filter_policy.selector import Selector

# Separate random streams for different uses of one seed.
_LANE_STREAM, _ORDER_STREAM = 0x63686F69, 0x6F726465

_SEARCHED = 256  # number of clips that are searched at once for a clip that the policy keeps

# A step packs from a pool with this fraction more tokens than its rows can hold. A larger pool does not pack better.
_LOOKAHEAD = 0.5

TimestepSampling = Literal["explicit_uniform", "explicit_uniform_ranks", "random"]
"""Sampling of the timesteps of a step (`diffusion.timesteps`): stratified with one interval per clip, stratified with
one interval per rank as in the paper, or independent."""


@dataclass(frozen=True)
class DataSource:
    """A latent store (`dataset.latents.latent_store`) and its sampling weight.

    Raises:
        UserError: the weight is not positive.
    """

    store: str  # a latent store, or for training a folder of clips
    weight: float = 1.0  # relative sampling weight

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight {self.weight} of {self.store} must be above 0; remove a source to exclude it")


@dataclass(frozen=True)
class MixtureSettings(CaptionDropout):
    """Settings of the mixture and of the rows of a step.

    Attributes:
        sources: the data sources with their sampling weights.
        row_tokens: maximum number of text and video tokens in a row.
        num_rows: rows per optimizer step, over all processes and gradient accumulation steps.
        image_fraction: fraction of samples that are images; None samples images and videos in their natural proportion.
        policy: the filter policy, which may change with the step.
        image_dropout: probability of replacing the image by zeros, for image-to-video models.
        timestep_sampling: see `TimestepSampling`.
        timestep_ranks: number of ranks for "explicit_uniform_ranks"; None is the data-parallel world size.
        packing: see `packing.Packing`.

    Raises:
        UserError: a value is out of range; no sources, or duplicate sources.
    """

    sources: tuple[DataSource, ...]
    row_tokens: int
    num_rows: int
    image_fraction: float | None = None
    policy: Policy = field(default_factory=Policy)
    image_dropout: float = 0.05
    timestep_sampling: TimestepSampling = "explicit_uniform"
    timestep_ranks: int | None = None
    packing: Packing = "frame_pack"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [source.store for source in self.sources]
        if not names:
            raise UserError("there are no sources: add one (--data)")
        if duplicates := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{duplicates[0]} is twice among the sources: remove one (--data)")
        check_minimum(self, row_tokens=1, num_rows=1, timestep_ranks=1)
        if self.timestep_ranks is not None:
            if self.timestep_sampling != "explicit_uniform_ranks":
                raise UserError("timestep_ranks needs timestep_sampling=explicit_uniform_ranks: set both or neither")
            if self.num_rows % self.timestep_ranks:
                raise UserError(f"timestep_ranks={self.timestep_ranks} must divide run.batch_size={self.num_rows}")
        for name in ("image_fraction", "image_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name}={value} must be between 0 and 1")


@dataclass(frozen=True)
class ClipTable:
    """Properties of a source's clips that the mixture uses without reading the clips.

    Attributes:
        lengths: text and video tokens of each clip.
        is_image: whether each clip is an image.
        columns: scores and other columns for the filter policy.
        sizes: frames, height and width, to warn of sizes without clips; None: no warning.
    """

    lengths: Int[np.ndarray, " clips"]
    is_image: Bool[np.ndarray, " clips"]
    columns: Columns = field(default_factory=dict)
    sizes: Int[np.ndarray, "clips 3"] | None = None


@dataclass(frozen=True)
class Sample:
    """One use of a clip in training.

    Attributes:
        position: position in the sequence of all samples, which seeds the sample's random values.
        lane: the images or the videos of one source, named "<source> images" or "<source> videos".
        index: index of the clip in its source.
    """

    position: int
    lane: str
    index: int

    @property
    def source(self) -> str:
        return _source(self.lane)


@dataclass(frozen=True)
class MixtureState:
    """Data position of a run after a number of steps, which a checkpoint stores to resume the sample sequence.

    Attributes:
        position: length of the sample sequence so far, including `waiting`.
        cursors: number of clips visited in each lane (`Sample.lane`), including those skipped by the policy.
        seen: number of samples of each lane that have been trained on.
        waiting: samples that were selected but did not fit into a row yet.
        sizes: number of clips in each lane, to detect changed sources.
        policies: hash of the policy with each source's thresholds and of the scores that it reads, to detect changes.
    """

    step: int = 0
    position: int = 0
    cursors: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    waiting: tuple[Sample, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepPlan:
    """The plan of one step over all processes.

    Attributes:
        rows: the samples of each row.
        lengths: the samples' lengths in tokens.
        kept_fractions: fraction of each source's clips that the policy keeps.
        collapsed: sizes of which the policy keeps hardly any clips (`dataset.buckets`).
        state_after: the state after this step.
    """

    rows: tuple[tuple[Sample, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    kept_fractions: dict[str, float]
    collapsed: tuple[str, ...]
    state_after: MixtureState

    @property
    def num_clips(self) -> int:
        return sum(map(len, self.rows))

    @property
    def num_tokens(self) -> int:
        return sum(map(sum, self.lengths))

    def rows_by_rank(self, num_ranks: int) -> list[list[int]]:
        """Return the rows of each rank, balanced by the cost of attention: the sum of squared clip lengths.

        Raises:
            UserError: the number of rows is not a multiple of `num_ranks`.
        """
        return balance_rows([sum(length**2 for length in row) for row in self.lengths], num_ranks)


class Mixture:
    """Planner of training steps, each from the state after the previous step.

    Args:
        tables: the clips of each source in the settings.

    Raises:
        UserError: a source has no clips; the settings require images or videos and no source has any; a clip is longer
            than a row; no source has a column of the policy.
    """

    def __init__(self, tables: Mapping[str, ClipTable], settings: MixtureSettings, seed: int) -> None:
        self.tables, self.settings, self.seed = tables, settings, seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        for source, table in tables.items():
            longest = int(table.lengths.max(initial=0))
            if longest == 0:
                raise UserError(f"{source} has no clips to train on: encode some, or remove it from --data")
            if longest > settings.row_tokens:
                raise UserError(
                    f"row_tokens={settings.row_tokens} is too small for a clip of {longest} tokens in {source}; "
                    f"use at least {longest}"
                )
        settings.policy.check_columns({name for table in tables.values() for name in table.columns})
        self.selectors = {
            source: Selector(settings.policy, {**table.columns, "is_image": table.is_image}, len(table.lengths))
            for source, table in tables.items()
        }
        self._buckets = {source: Buckets(source, t.sizes) for source, t in tables.items() if t.sizes is not None}
        self._masks: dict[str, np.ndarray] = {}
        self._collapsed: dict[str, tuple[str, ...]] = {}
        if settings.image_fraction is not None:
            for kind, fraction in (("image", settings.image_fraction), ("video", 1 - settings.image_fraction)):
                if fraction > 0 and not any(_kind(lane) == kind for lane in self.lanes):
                    raise UserError(
                        f"image_fraction={settings.image_fraction} needs {kind}s, and no source has any: add some, or "
                        "leave image_fraction unset"
                    )

    @cached_property
    def lanes(self) -> dict[str, np.ndarray]:
        """The clip indices of each lane; empty lanes are omitted."""
        lanes = {}
        for source, table in self.tables.items():
            for kind, mask in (("image", table.is_image), ("video", ~table.is_image)):
                if mask.any():
                    lanes[f"{source} {kind}s"] = np.flatnonzero(mask)
        return lanes

    def initial_state(self) -> MixtureState:
        """Return the state before the first step."""
        zeros = dict.fromkeys(self.lanes, 0)
        sizes = {lane: len(clips) for lane, clips in self.lanes.items()}
        return MixtureState(cursors=zeros, seen=zeros, sizes=sizes, policies=self.policies)

    @cached_property
    def policies(self) -> dict[str, str]:
        """The hash of the policy of each source; empty if all clips are kept at all steps."""
        groups = [selector.groups for selector in self.selectors.values()]
        if self.settings.policy.keeps_all and not any(each is not None and len(each.members) for each in groups):
            return {}
        return {source: selector.digest() for source, selector in self.selectors.items()}

    def check_policy(self, num_steps: int) -> None:
        """Check that the policy keeps clips at all steps at which it changes.

        Raises:
            UserError: it keeps none, or none of a required media type.
        """
        for step in self.settings.policy.knots:
            if step < num_steps:
                self._lane_probabilities(self._select(step), step)

    def check_state(self, state: MixtureState) -> None:
        """Check that a state belongs to these sources.

        Raises:
            UserError: the sources have changed since the state was saved.
        """
        for lane, size in state.sizes.items():
            current = len(self.lanes.get(lane, ()))
            if current != size:
                raise UserError(
                    f"{lane}: the run was started with {size} clips, but the source now has {current}, so the run "
                    "cannot be resumed; start a new run from its model"
                )
        for source, digest in state.policies.items():
            if self.policies.get(source) != digest:
                raise UserError(
                    f"{source}: the policy or its input columns have changed since the run was started, so the run "
                    "cannot be resumed; start a new run from its model"
                )
        if new := self.lanes.keys() - state.sizes.keys():
            raise UserError(
                f"{', '.join(sorted(new))}: added since the run was started, so it cannot be resumed; start a new run "
                "from its model"
            )

    def plan_step(self, state: MixtureState) -> StepPlan:
        """Plan the next step after a state. The plan depends only on the state.

        Raises:
            UserError: the policy keeps no clips.
        """
        budget, num_rows, packing = self.settings.row_tokens, self.settings.num_rows, self.settings.packing
        masks = self._select(state.step)
        lanes, probabilities = self._lane_probabilities(masks, state.step)
        waiting = [sample for sample in state.waiting if masks[sample.source][sample.index]]
        pool, position, cursors = list(waiting), state.position, dict(state.cursors)
        lengths = [self._length(sample) for sample in pool]
        tokens, pool_tokens = sum(lengths), budget * num_rows * (1 + _LOOKAHEAD)
        while tokens <= pool_tokens or not has_full_rows(lengths, budget, num_rows, packing):
            rng = np.random.default_rng((_LANE_STREAM, self.seed, position))
            lane = lanes[rng.choice(len(lanes), p=probabilities)]
            index, cursors[lane] = self._next_clip(lane, cursors[lane], masks[_source(lane)])
            pool.append(Sample(position, lane, index))
            lengths.append(self._length(pool[-1]))
            tokens += lengths[-1]
            position += 1

        rows = pack_rows(lengths, budget, num_rows, packing, num_waiting=len(waiting))
        packed = {i for row in rows for i in row}
        seen = dict(state.seen)
        for i in packed:
            seen[pool[i].lane] += 1
        return StepPlan(
            rows=tuple(tuple(pool[i] for i in row) for row in rows),
            lengths=tuple(tuple(lengths[i] for i in row) for row in rows),
            kept_fractions={source: float(mask.mean()) for source, mask in masks.items()},
            collapsed=tuple(bucket for name in masks for bucket in self._collapsed[name]),
            state_after=replace(
                state,
                step=state.step + 1,
                position=position,
                cursors=cursors,
                seen=seen,
                waiting=tuple(sample for i, sample in enumerate(pool) if i not in packed),
            ),
        )

    def _length(self, sample: Sample) -> int:
        return int(self.tables[sample.source].lengths[sample.index])

    def _select(self, step: int) -> dict[str, np.ndarray]:
        """Return a mask of the clips of each source that the policy keeps."""
        for source, selector in self.selectors.items():
            mask = selector.mask(step)
            if mask is not self._masks.get(source):
                self._masks[source] = mask
                self._collapsed[source] = self._buckets[source].collapsed(mask) if source in self._buckets else ()
        return self._masks

    def _lane_probabilities(self, masks: Mapping[str, np.ndarray], step: int) -> tuple[list[str], np.ndarray]:
        """Return the lanes and the probability of sampling from each."""
        settings, weights = self.settings, {source.store: source.weight for source in self.settings.sources}
        lanes = list(self.lanes)
        num_kept = np.array([masks[_source(lane)][clips].sum() for lane, clips in self.lanes.items()])
        num_kept_in_source = np.array([masks[_source(lane)].sum() for lane in lanes])
        weight = np.array([weights[_source(lane)] for lane in lanes])
        if settings.image_fraction is None:
            p = weight * num_kept / np.maximum(num_kept_in_source, 1)
        else:
            p, kinds = np.where(num_kept > 0, weight, 0.0), np.array([_kind(lane) for lane in lanes])
            for kind, fraction in (("image", settings.image_fraction), ("video", 1 - settings.image_fraction)):
                total = p[kinds == kind].sum()
                if fraction > 0 and total == 0:
                    raise UserError(
                        f"from step {step} on, the policy keeps no {kind}s, but "
                        f"image_fraction={settings.image_fraction} needs some: relax the policy, or change "
                        "image_fraction"
                    )
                p[kinds == kind] *= fraction / max(total, 1e-300)
        if p.sum() == 0:
            raise UserError(f"from step {step} on, the policy keeps no clips: relax its bounds")
        return lanes, p / p.sum()

    def _next_clip(self, lane: str, cursor: int, kept: np.ndarray) -> tuple[int, int]:
        """Return the next clip of a lane that the policy keeps, and the cursor after it."""
        size = len(self.lanes[lane])
        while True:
            start = cursor % size
            candidates = self._order(lane, cursor // size)[start : start + _SEARCHED]
            offsets = np.flatnonzero(kept[candidates])
            if len(offsets):
                return int(candidates[offsets[0]]), cursor + int(offsets[0]) + 1
            cursor += len(candidates)

    def _order(self, lane: str, epoch: int) -> np.ndarray:
        """Return the clips of a lane, reshuffled for each epoch."""
        cached = self._orders.get(lane)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng((_ORDER_STREAM, self.seed, zlib.crc32(lane.encode()), epoch))
            cached = self._orders[lane] = epoch, rng.permutation(self.lanes[lane])
        return cached[1]


def _source(lane: str) -> str:
    return lane.rpartition(" ")[0]


def _kind(lane: str) -> str:
    return lane.rpartition(" ")[2].removesuffix("s")
