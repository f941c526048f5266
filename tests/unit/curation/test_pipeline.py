"""Work of a worker process on one clip, with signals made for the test."""

from collections.abc import Callable
from typing import Any

import pytest

from cogvideox.curation.pipeline import ClipItem, ProcessClips
from cogvideox.curation.signals.base import ClipInput
from cogvideox.errors import UserError

ROW = {"id": "a", "path": "missing.mp4", "start": 0.0, "end": 1.0, "is_image": False}


class Sound:
    """A signal that needs no frames."""

    name = "sound"
    samplings = ()

    def missing_requirements(self) -> list[str]:
        return []

    def open(self) -> Callable[[ClipInput], dict[str, Any]]:
        return lambda clip: {"sound.seconds": clip.end - clip.start}


class Broken(Sound):
    def open(self) -> Callable[[ClipInput], dict[str, Any]]:
        raise ValueError("damaged model")


def test_a_signal_without_samplings_decodes_nothing():
    computed = ProcessClips((), (Sound(),), 0).open(0)([ClipItem(ROW, ("sound",))])
    assert [(result.values, result.error) for result in computed.results] == [({"sound.seconds": 1.0}, None)]
    assert computed.seconds == {}


@pytest.mark.parametrize("where", ["stage", "signal"])
def test_a_model_that_cannot_be_loaded_ends_the_run_instead_of_failing_every_clip(where):
    task = ProcessClips((Broken(),), (), 2) if where == "stage" else ProcessClips((), (Broken(),), 2)
    with pytest.raises(UserError, match="sound cannot be loaded: ValueError: damaged model"):
        task.open(0)([ClipItem(ROW, ("sound",))])
