"""Performance goals for an H100-class GPU, relative to diffusers in the same run, and the measured values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Reports = dict[str, dict[str, Any]]  # by part
Value = float | None


@dataclass(frozen=True)
class Goal:
    """A goal. `required` and `target` are minimum values, or maximum values if `lower_is_better`."""

    name: str
    description: str
    required: float
    target: float
    value: Callable[[Reports], Value]
    lower_is_better: bool = False

    def result(self, reports: Reports) -> dict[str, Any]:
        """Return the goal and the measured value, for the report."""
        return {
            "name": self.name,
            "description": self.description,
            "at_most" if self.lower_is_better else "at_least": self.required,
            "target": self.target,
            "value": self.value(reports),
        }

    def line(self, reports: Reports) -> str:
        """Return the goal and the measured value as a line of text."""
        value = self.value(reports)
        if value is None:
            result = "-         not measured"
        else:
            reached = [value <= x if self.lower_is_better else value >= x for x in (self.required, self.target)]
            result = f"{value:<9.3g} {'target reached' if all(reached) else 'reached' if reached[0] else 'missed'}"
        sign = "<=" if self.lower_is_better else ">="
        return f"{self.name:4} {self.description:58} {sign} {self.required:<6g} target {self.target:<6g} {result}"


def variants(reports: Reports, part: str, task: str) -> dict[str, Any]:
    """Return the variants of the row whose task starts with `task`, except failed ones."""
    for row in reports.get(part, {}).get("rows", []):
        if row["task"].startswith(task):
            return {name: variant for name, variant in row["variants"].items() if "median" in variant}
    return {}


def best(
    reports: Reports, part: str, task: str, reference: str, *, exact: bool = True, word: str = "cogvideox"
) -> Value:
    """Return the speed-up of the fastest variant whose name starts with `word` over the reference.

    Args:
        exact: consider only exact variants.
    """
    measured = variants(reports, part, task)
    medians = [
        variant["median"]
        for name, variant in measured.items()
        if name.startswith(word) and (variant.get("exact", True) or not exact)
    ]
    return measured[reference]["median"] / min(medians) if medians and reference in measured else None


def seconds(reports: Reports, part: str, *, steps: int = 50) -> Value:
    """Return the seconds of the fastest exact generation with all steps."""
    measured = variants(reports, part, "generation")
    exact = ("cogvideox", "cogvideox, compiled")
    medians = [
        variant["median"] for name, variant in measured.items() if name in exact and variant["num_steps"] == steps
    ]
    return min(medians, default=None)


def exact_variants(reports: Reports, part: str, task: str) -> list[dict[str, Any]]:
    """Return this package's exact variants of a task."""
    measured = variants(reports, part, task)
    return [variant for name, variant in measured.items() if name.startswith("cogvideox") and variant.get("exact")]


def fraction_of_lower_bound(reports: Reports) -> Value:
    fractions = [variant["fraction_of_lower_bound"] for variant in exact_variants(reports, "forward-5b", "forward")]
    return max(fractions, default=None)


def smallest_memory(reports: Reports, scale: float | None = None) -> Value:
    """Return the smallest peak memory of an exact decode, relative to diffusers without tiling, or to `scale` bytes."""
    untiled = variants(reports, "vae", "decode").get("diffusers")
    peaks = [variant["peak_extra_bytes"] for variant in exact_variants(reports, "vae", "decode")]
    unit = untiled["peak_extra_bytes"] if scale is None and untiled is not None else scale
    return min(peaks) / unit if peaks and unit else None


def over_tiled(reports: Reports) -> Value:
    """Return the speed-up over diffusers with tiling of the fastest exact decode that needs no more memory."""
    tiled = variants(reports, "vae", "decode").get("diffusers, tiled")
    if tiled is None:
        return None
    medians = [
        variant["median"]
        for variant in exact_variants(reports, "vae", "decode")
        if variant["peak_extra_bytes"] <= tiled["peak_extra_bytes"]
    ]
    return tiled["median"] / min(medians) if medians else 0.0


def mfu(reports: Reports) -> Value:
    measured = variants(reports, "train-2b", "training")
    return max((variant["mfu"] for name, variant in measured.items() if name.startswith("cogvideox")), default=None)


COMPILED = "diffusers, compiled"
GOALS = [
    Goal("G1", "5B forward, exact, over eager", 1.3, 1.5, lambda r: best(r, "forward-5b", "forward", "diffusers")),
    Goal("G2", "5B forward, exact, over compiled", 1.05, 1.15, lambda r: best(r, "forward-5b", "forward", COMPILED)),
    Goal("G3", "2B forward, exact, over eager", 1.3, 1.5, lambda r: best(r, "forward-2b", "forward", "diffusers")),
    Goal("G4", "5B forward, exact: fraction of the measured lower bound", 0.8, 0.9, fraction_of_lower_bound),
    Goal(
        "G5",
        "5B, 50 steps from embeddings to frames (s)",
        72,
        64,
        lambda r: seconds(r, "generate-5b"),
        lower_is_better=True,
    ),
    Goal(
        "G5",
        "2B, 50 steps from embeddings to frames (s)",
        30,
        25,
        lambda r: seconds(r, "generate-2b"),
        lower_is_better=True,
    ),
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
    Goal(
        "G10", "VAE decode, exact: extra memory, relative to untiled", 0.35, 0.35, smallest_memory, lower_is_better=True
    ),
    Goal(
        "G10", "VAE decode, exact: extra memory (GB)", 4.2, 1.5, lambda r: smallest_memory(r, 1e9), lower_is_better=True
    ),
    Goal("G11", "VAE decode, exact, no more memory than tiled, over tiled", 3.0, 5.0, over_tiled),
    Goal("G12", "VAE encode, exact, over untiled", 2.0, 3.0, lambda r: best(r, "vae", "encode", "diffusers")),
    Goal("G13", "2B training step: MFU (peak 989 TFLOP/s)", 0.33, 0.38, mfu),
]
