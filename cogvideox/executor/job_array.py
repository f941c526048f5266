"""One job of several that share their work without talking: an array of jobs on a cluster, or two shells.

Job `rank` of `world` takes every `world`-th row. What it found it leaves in one file, written whole; that file is its
mark of being done, and whoever finds the marks of all of them may put them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cogvideox.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Job `rank`, counted from 0, of `world`.

    Raises:
        UserError: there is no such job.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            last = max(self.world, 1) - 1
            raise UserError(
                f"shard {self.rank}/{self.world} is not possible: of N shards the first is 0/N and the last N-1/N"
                + (f", here {last}/{self.world}" if self.world > 0 else "")
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`"3/8"` is the fourth job of eight.

        Raises:
            UserError: it is written in another way, or there is no such job.
        """
        rank, slash, world = text.partition("/")
        if not (slash and rank.isdecimal() and world.isdecimal()):
            raise UserError(f"{text!r} is no shard: write K/N, such as 0/4 for the first of four")
        return cls(int(rank), int(world))

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows of this job."""
        return rows[self.rank :: self.world]

    def file(self, folder: Path, suffix: str) -> Path:
        """The file that this job leaves in a folder of their common work."""
        return folder / f"{self.rank:05d}-of-{self.world:05d}{suffix}"

    def all_done(self, folder: Path, suffix: str) -> list[Path] | None:
        """The files of all jobs in their order, or None while one is missing."""
        files = [Shard(rank, self.world).file(folder, suffix) for rank in range(self.world)]
        return files if all(file.is_file() for file in files) else None
