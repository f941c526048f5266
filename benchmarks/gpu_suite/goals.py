"""Performance goals on one GPU of the H100 class, relative to diffusers in the same run, and the measured values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Reports = dict[str, dict[str, Any]]  # by part
Value = float | None


@dataclass(frozen=True)
class Goal:
    """A goal. `must` and `wish` are minimum values, or maximum values if `less` is better."""

    name: str
    what: str
    must: float
    wish: float
    value: Callable[[Reports], Value]
    less: bool = False

    def result(self, reports: Reports) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "what": self.what,
            "at_most" if self.less else "at_least": self.must,
            "wish": self.wish,
            "found": self.value(reports),
        }

    def line(self, reports: Reports) -> str:
        """For the terminal."""
        found = self.value(reports)
        if found is None:
            result = "-         not measured"
        else:
            reached = [found <= limit if self.less else found >= limit for limit in (self.must, self.wish)]
            result = (
                f"{found:<9.3g} {'reached, and the wish' if all(reached) else 'reached' if reached[0] else 'missed'}"
            )
        sign = "<=" if self.less else ">="
        return f"{self.name:4} {self.what:58} {sign} {self.must:<6g} wish {self.wish:<6g} {result}"


def ways(reports: Reports, part: str, task: str) -> dict[str, Any]:
    """The ways of the row whose task starts with `task`, without failed ones."""
    for row in reports.get(part, {}).get("rows", []):
        if row["task"].startswith(task):
            return {name: way for name, way in row["ways"].items() if "median" in way}
    return {}


def best(
    reports: Reports, part: str, task: str, reference: str, *, exact: bool = True, word: str = "cogvideox"
) -> Value:
    """The speed-up of our fastest way over the reference; only of exact ways if `exact`."""
    found = ways(reports, part, task)
    ours = [
        way["median"] for name, way in found.items() if name.startswith(word) and (way.get("exact", True) or not exact)
    ]
    return found[reference]["median"] / min(ours) if ours and reference in found else None


def seconds(reports: Reports, part: str, *, steps: int = 50) -> Value:
    """Seconds of the fastest exact generation with all steps."""
    found = ways(reports, part, "generation")
    plain = ("cogvideox", "cogvideox, compiled")
    ours = [way["median"] for name, way in found.items() if name in plain and way["num_steps"] == steps]
    return min(ours, default=None)


def share_of_floor(reports: Reports) -> Value:
    found = ways(reports, "forward-5b", "forward")
    ours = [way["share_of_floor"] for name, way in found.items() if name.startswith("cogvideox") and way.get("exact")]
    return max(ours, default=None)


def smallest_memory(reports: Reports, scale: float | None = None) -> Value:
    """Smallest peak memory of an exact decode, relative to diffusers without tiling, or to `scale` bytes."""
    found = ways(reports, "vae", "decode")
    ours = [way["peak_extra_bytes"] for name, way in found.items() if name.startswith("cogvideox") and way.get("exact")]
    over = found["diffusers"]["peak_extra_bytes"] if scale is None and "diffusers" in found else scale
    return min(ours) / over if ours and over else None


def over_tiled(reports: Reports) -> Value:
    """Speed-up of our fastest exact decode that needs no more memory than diffusers with tiling, over the latter."""
    found = ways(reports, "vae", "decode")
    tiled = found.get("diffusers, tiled")
    if tiled is None:
        return None
    ours = [
        way["median"]
        for name, way in found.items()
        if name.startswith("cogvideox") and way.get("exact") and way["peak_extra_bytes"] <= tiled["peak_extra_bytes"]
    ]
    return tiled["median"] / min(ours) if ours else 0.0


def mfu(reports: Reports) -> Value:
    found = ways(reports, "train-2b", "training")
    return max((way["mfu"] for name, way in found.items() if name.startswith("cogvideox")), default=None)


COMPILED = "diffusers, compiled"
GOALS = [
    Goal("G1", "5B forward, exact, over eager", 1.3, 1.5, lambda r: best(r, "forward-5b", "forward", "diffusers")),
    Goal("G2", "5B forward, exact, over compiled", 1.05, 1.15, lambda r: best(r, "forward-5b", "forward", COMPILED)),
    Goal("G3", "2B forward, exact, over eager", 1.3, 1.5, lambda r: best(r, "forward-2b", "forward", "diffusers")),
    Goal("G4", "5B forward, exact: share of the measured floor", 0.8, 0.9, share_of_floor),
    Goal("G5", "5B, 50 steps from embeddings to frames (s)", 72, 64, lambda r: seconds(r, "generate-5b"), less=True),
    Goal("G5", "2B, 50 steps from embeddings to frames (s)", 30, 25, lambda r: seconds(r, "generate-2b"), less=True),
    Goal(
        "G6",
        "5B forward in fp8, over eager",
        1.5,
        1.75,
        lambda r: best(r, "forward-5b", "forward", "diffusers", exact=False, word="cogvideox, fp8"),
    ),
    Goal(
        "G7",
        "5B generation, fp8 and step cache, over eager",
        2.2,
        3.0,
        lambda r: best(r, "generate-5b", "generation", "diffusers", word="cogvideox, fp8 and cache"),
    ),
    Goal(
        "G8",
        "5B generation, fewer steps, over eager",
        2.0,
        6.0,
        lambda r: best(r, "generate-5b", "generation", "diffusers", word="cogvideox, dpm++"),
    ),
    Goal("G9", "VAE decode, exact, over untiled", 2.5, 3.5, lambda r: best(r, "vae", "decode", "diffusers")),
    Goal("G10", "VAE decode, exact: extra memory, of untiled", 0.35, 0.35, smallest_memory, less=True),
    Goal("G10", "VAE decode, exact: extra memory (GB)", 4.2, 1.5, lambda r: smallest_memory(r, 1e9), less=True),
    Goal("G11", "VAE decode, exact, no more memory than tiled, over tiled", 3.0, 5.0, over_tiled),
    Goal("G12", "VAE encode, exact, over untiled", 2.0, 3.0, lambda r: best(r, "vae", "encode", "diffusers")),
    Goal("G13", "2B training step: model FLOP/s of 989 TFLOP/s", 0.33, 0.38, mfu),
]
