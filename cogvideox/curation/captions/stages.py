"""Captioning stages as cached curation stages: their identities and result columns."""

from dataclasses import dataclass

from cogvideox.curation.captions.config import STAGES
from cogvideox.curation.stage import Column

FACTS = "facts"


@dataclass(frozen=True)
class CaptionStage:
    """A captioning stage as a curation stage, so that its results are stored and reused. See `stage.Stage`.

    Attributes:
        key: name of the stage in the pipeline config, or `FACTS`.
        identity: identity of the back-end and of all settings that affect its captions.
    """

    key: str
    identity: str
    reads: tuple[str, ...] = ()
    version: int = 1

    @property
    def name(self) -> str:
        return f"caption_{self.key}"

    @property
    def columns(self) -> tuple[Column, ...]:
        return stage_columns(self.key)

    def weights_hash(self) -> str:
        return ""


def stage_columns(key: str) -> tuple[Column, ...]:
    """Return the result columns of a stage."""
    name = f"caption.{key}"
    if key == FACTS:
        return (Column("caption.facts", "str", "Measured facts of the clip, in JSON."),)
    text = "Captions of frames with their times, in JSON." if key == "frames" else f"The {key} caption."
    return (
        Column(name, "str", text),
        Column(f"{name}_problems", "str", "Problems found by the checks, one per line; null if there are none."),
        Column(f"{name}_attempts", "int", "Number of captions written, including retries.", "", 0.0),
        Column(f"{name}_tokens", "int", "Prompt and completion tokens.", "", 0.0),
        Column(f"{name}_seconds", "float", "Duration of the model calls.", "s", 0.0),
        Column(f"{name}_cost", "float", "Cost of the model calls.", "", 0.0),
    )


ALL_COLUMNS = tuple(column for key in (FACTS, *STAGES) for column in stage_columns(key))
"""Result columns of all stages."""
