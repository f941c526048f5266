"""Config of captioning stages."""

import pytest

from cogvideox.curation.captions.config import StageConfig
from cogvideox.errors import UserError


@pytest.mark.parametrize(
    ("kind", "fields"), [("tags", {"batch_size": 16}), ("toybox", {"processes": 2}), ("captioner", {"num_frames": 4})]
)
def test_options_without_effect_on_a_stage_are_errors(kind, fields, tmp_path):
    with pytest.raises(UserError, match=f"{next(iter(fields))} has no effect on a stage of kind {kind}"):
        StageConfig(kind, path=tmp_path if kind == "captioner" else None, **fields)
