"""Job arrays: several jobs process different rows without communication, on a cluster or in several shells.

Job `rank` of `world` processes every `world`-th row. It writes its result atomically to a file, which also marks the
job as done. Any job that finds the result files of all jobs can merge them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cogvideox.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Job `rank` (from 0) of `world`.

    Raises:
        UserError: `rank` is not between 0 and world - 1.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            allowed = f"0/{self.world} to {self.world - 1}/{self.world}" if self.world > 0 else "0/N to N-1/N, N >= 1"
            raise UserError(f"shard {self.rank}/{self.world} does not exist: shards are numbered {allowed}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse "K/N": "3/8" is the fourth of eight jobs.

        Raises:
            UserError: the string has a different format, or K is out of range.
        """
        rank, slash, world = text.partition("/")
        if not (slash and rank.isdecimal() and world.isdecimal()):
            raise UserError(f"{text!r} is not a shard: write K/N, such as 0/4 for the first of four")
        return cls(int(rank), int(world))

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """Select the rows of this job."""
        return rows[self.rank :: self.world]

    def file(self, folder: Path, suffix: str) -> Path:
        """Return the path of this job's result file in a folder shared by all jobs."""
        return folder / f"{self.rank:05d}-of-{self.world:05d}{suffix}"

    def all_done(self, folder: Path, suffix: str) -> list[Path] | None:
        """Return the result files of all jobs in order, or None if any is missing."""
        files = [Shard(rank, self.world).file(folder, suffix) for rank in range(self.world)]
        return files if all(file.is_file() for file in files) else None
