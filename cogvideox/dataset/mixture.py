"""Which clips the rows of each step hold: weighted sources, images among videos, shuffled, chosen by a policy, packed.

All samples of a run stand in one order, and which clip stands at a position is a function of the seed, the settings and
what stood before, never of the number of processes: they plan the same steps and take their share of the rows. To plan
the next step one needs the `State` after the last one, a few numbers, so that a resumed run goes on to the bit.

Imports no torch.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from cogvideox.dataset.packing import balance, first_fit_decreasing
from cogvideox.errors import UserError
from cogvideox.filter_policy import Columns, Policy

# Keep these random numbers apart from others that are drawn from the same seed.
_CHOICE, _ORDER = 0x63686F69, 0x6F726465

# How much more than its rows hold a step has to choose from, as a share of the rows. More packs no better.
_LOOKAHEAD = 0.5


@dataclass(frozen=True)
class Source:
    """A store of latents (`dataset.latents.latent_store`), and how much it weighs beside others.

    Raises:
        UserError: a weight that is not above 0.
    """

    store: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(
                f"the weight {self.weight} of {self.store} has to be above 0; leave out what should not count"
            )


@dataclass(frozen=True)
class MixtureSettings:
    """What the rows of a step are made of.

    sources: where samples come from, by weight.
    row_tokens: the most tokens of a row, text and video of its clips together.
    num_rows: rows of one optimizer step, over all processes and all that is accumulated.
    image_share: of the samples, how many are images; None: as they come. Sources give either kind by their weights.
    policy: which clips are drawn, at which step.
    text_dropout: how often a caption is replaced by the null text, for classifier-free guidance.
    image_dropout: how often zeros replace the image that a clip begins with, for a model that takes one.
    strata: how timesteps are spread over a step's clips (`diffusion.timesteps`): one interval for each clip, for each
        rank as in the paper, or none.

    Raises:
        UserError: a value outside of its range; no source, or the same twice.
    """

    sources: tuple[Source, ...]
    row_tokens: int
    num_rows: int
    image_share: float | None = None
    policy: Policy = field(default_factory=Policy)
    text_dropout: float = 0.1
    image_dropout: float = 0.05
    strata: Literal["slots", "ranks", "random"] = "slots"

    def __post_init__(self) -> None:
        names = [source.store for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise UserError(f"the sources {names} have to be one store or several, each of them once")
        for name in ("row_tokens", "num_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is below the smallest legal value, 1")
        for name in ("image_share", "text_dropout", "image_dropout"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{name}={share} is not in [0, 1]")


@dataclass(frozen=True)
class Table:
    """What is known of a source's clips without reading them: tokens of each (text and video), which are images, and
    the columns that a policy chooses by."""

    lengths: Int[np.ndarray, " clips"]
    is_image: Bool[np.ndarray, " clips"]
    columns: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A visit to a clip. Whatever is random about it follows from its position in the order of all samples."""

    position: int
    lane: str
    index: int

    @property
    def source(self) -> str:
        return _source(self.lane)


@dataclass(frozen=True)
class State:
    """Where the order stands after some steps, as plain numbers.

    A lane is the images or the videos of a source: "source images". cursors: how far each has been gone through,
    what the policy passed over included. seen: samples of each that were trained on. waiting: drawn, but left over.
    sizes: clips of each lane, by which a source that has changed since is recognised.
    """

    step: int = 0
    position: int = 0
    cursors: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    waiting: tuple[Sample, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The rows of one step, over all processes, with their clips' lengths; the share of each source's clips that the
    policy keeps; and the state after it."""

    rows: tuple[tuple[Sample, ...], ...]
    lengths: tuple[tuple[int, ...], ...]
    kept: dict[str, float]
    after: State

    @property
    def num_clips(self) -> int:
        return sum(map(len, self.rows))

    @property
    def num_tokens(self) -> int:
        return sum(map(sum, self.lengths))

    def shares(self, num_ranks: int) -> list[list[int]]:
        """The rows of each rank, balanced by the sum of their clips' squared lengths, which is what attention costs.

        Raises:
            UserError: the rows do not divide among the ranks.
        """
        return balance([sum(length**2 for length in row) for row in self.lengths], num_ranks)


class Mixture:
    """Plans steps. `plan` is a function of the state alone.

    Args:
        tables: a table for each source that the settings name.

    Raises:
        UserError: a source without clips, or images and videos asked for where there are none; a clip longer than a
            row; a policy on a column that no source has.
    """

    def __init__(self, tables: Mapping[str, Table], settings: MixtureSettings, seed: int) -> None:
        self.tables, self.settings, self.seed = tables, settings, seed
        self._phase: tuple[int, dict[str, np.ndarray]] | None = None
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        for source, table in tables.items():
            longest = int(table.lengths.max(initial=0))
            if longest == 0:
                raise UserError(f"{source} has no clips to train on")
            if longest > settings.row_tokens:
                raise UserError(
                    f"row_tokens={settings.row_tokens} is too small for a clip of {longest} tokens in {source}; "
                    f"the smallest legal value is {longest}"
                )
        settings.policy.check({name for table in tables.values() for name in table.columns})
        if settings.image_share is not None:
            for kind, share in (("image", settings.image_share), ("video", 1 - settings.image_share)):
                if share > 0 and not any(_kind(lane) == kind for lane in self.lanes):
                    raise UserError(f"image_share={settings.image_share}, but there is no {kind} in any source")

    @cached_property
    def lanes(self) -> dict[str, np.ndarray]:
        """The clips of each lane that has any."""
        found = {}
        for source, table in self.tables.items():
            for kind, mask in (("image", table.is_image), ("video", ~table.is_image)):
                if mask.any():
                    found[f"{source} {kind}s"] = np.flatnonzero(mask)
        return found

    def start(self) -> State:
        """Before the first step."""
        none = dict.fromkeys(self.lanes, 0)
        return State(cursors=none, seen=none, sizes={lane: len(clips) for lane, clips in self.lanes.items()})

    def check(self, state: State) -> None:
        """Whether a state is one of these sources.

        Raises:
            UserError: it was of other sources, or one has changed since.
        """
        for lane, size in state.sizes.items():
            now = len(self.lanes.get(lane, ()))
            if now != size:
                raise UserError(
                    f"{lane}: the run has {size} of them and there are {now} now, so it cannot go on as it began; "
                    "begin a new one from its model"
                )
        if more := self.lanes.keys() - state.sizes.keys():
            raise UserError(f"{', '.join(sorted(more))}: the run began without them; begin a new one from its model")

    def plan(self, state: State) -> Plan:
        """The next step.

        Raises:
            UserError: the policy keeps nothing.
        """
        settings = self.settings
        masks = self._masks(state.step)
        lanes, chances = self._chances(masks, state.step)
        waiting = [sample for sample in state.waiting if masks[sample.source][sample.index]]
        pool, position, cursors = list(waiting), state.position, dict(state.cursors)
        wanted = settings.row_tokens * settings.num_rows * (1 + _LOOKAHEAD)
        tokens = sum(map(self._length, pool))
        while tokens <= wanted:
            lane = lanes[np.random.default_rng((_CHOICE, self.seed, position)).choice(len(lanes), p=chances)]
            index, cursors[lane] = self._next(lane, cursors[lane], masks[_source(lane)])
            pool.append(Sample(position, lane, index))
            tokens += self._length(pool[-1])
            position += 1

        lengths = [self._length(sample) for sample in pool]
        rows = first_fit_decreasing(lengths, settings.row_tokens, num_rows=settings.num_rows, first=len(waiting))
        taken = {i for row in rows for i in row}
        seen = dict(state.seen)
        for i in taken:
            seen[pool[i].lane] += 1
        left = tuple(sample for i, sample in enumerate(pool) if i not in taken)
        after = replace(state, step=state.step + 1, position=position, cursors=cursors, seen=seen, waiting=left)
        kept = {source: float(mask.mean()) for source, mask in masks.items()}
        of_rows = tuple(tuple(lengths[i] for i in row) for row in rows)
        return Plan(tuple(tuple(pool[i] for i in row) for row in rows), of_rows, kept, after)

    def _length(self, sample: Sample) -> int:
        return int(self.tables[sample.source].lengths[sample.index])

    def _masks(self, step: int) -> dict[str, np.ndarray]:
        """Which clips of each source the policy keeps."""
        policy = self.settings.policy
        phase = policy.phase(step)
        if self._phase is None or self._phase[0] != phase:
            kept = {name: policy.keeps(table.columns, len(table.lengths), step) for name, table in self.tables.items()}
            self._phase = phase, kept
        return self._phase[1]

    def _chances(self, masks: Mapping[str, np.ndarray], step: int) -> tuple[list[str], np.ndarray]:
        """The lanes, and how likely each is to give the next sample."""
        settings, weights = self.settings, {source.store: source.weight for source in self.settings.sources}
        lanes = list(self.lanes)
        num_kept = np.array([masks[_source(lane)][clips].sum() for lane, clips in self.lanes.items()])
        of_source = np.array([masks[_source(lane)].sum() for lane in lanes])
        weight = np.array([weights[_source(lane)] for lane in lanes])
        if settings.image_share is None:
            chances = weight * num_kept / np.maximum(of_source, 1)
        else:
            chances, kinds = np.where(num_kept > 0, weight, 0.0), np.array([_kind(lane) for lane in lanes])
            for kind, share in (("image", settings.image_share), ("video", 1 - settings.image_share)):
                total = chances[kinds == kind].sum()
                if share > 0 and total == 0:
                    raise UserError(f"from step {step} on the policy keeps no {kind}, and image_share asks for some")
                chances[kinds == kind] *= share / max(total, 1e-300)
        if chances.sum() == 0:
            raise UserError(f"from step {step} on the policy keeps none of the clips")
        return lanes, chances / chances.sum()

    def _next(self, lane: str, cursor: int, kept: np.ndarray) -> tuple[int, int]:
        """The next clip of a lane that is kept, and the cursor behind it."""
        size = len(self.lanes[lane])
        while True:
            index = self._order(lane, cursor // size)[cursor % size]
            cursor += 1
            if kept[index]:
                return int(index), cursor

    def _order(self, lane: str, epoch: int) -> np.ndarray:
        """All clips of a lane, in an order that is drawn anew for each pass."""
        known = self._orders.get(lane)
        if known is None or known[0] != epoch:
            rng = np.random.default_rng((_ORDER, self.seed, zlib.crc32(lane.encode()), epoch))
            known = self._orders[lane] = epoch, rng.permutation(self.lanes[lane])
        return known[1]


def _source(lane: str) -> str:
    return lane.rpartition(" ")[0]


def _kind(lane: str) -> str:
    return lane.rpartition(" ")[2].removesuffix("s")
