"""A score is printed only with its protocol."""

from dataclasses import asdict

import pytest

from cogvideox.evaluation.protocol import Protocol, check_protocol, code_version, format_score, format_value
from cogvideox.evaluation.scorer import Ratio
from cogvideox.records import Score

PROTOCOL = {**asdict(Protocol(suite="toybox")), "scorer": {}, "num_videos": 40, "num_failures": 0, "interval": "95 %"}


def test_a_score_without_protocol_is_not_formatted():
    with pytest.raises(ValueError, match=r"toybox/color has no protocol, it lacks .*weights"):
        format_score(Score("toybox/color", 0.5))


@pytest.mark.parametrize("missing", PROTOCOL)
def test_every_setting_is_required(missing: str):
    protocol = {name: value for name, value in PROTOCOL.items() if name != missing}
    with pytest.raises(ValueError, match=missing):
        check_protocol(Score("toybox/color", 0.5, None, protocol))


def test_formats():
    assert format_score(Score("m", 0.887, (0.846, 0.918), PROTOCOL), "%") == "88.7 % [84.6, 91.8], N=40"
    assert format_score(Score("m", 32.614, None, PROTOCOL), "dB") == "32.61 dB, N=40"
    assert format_value(float("nan"), "%") == "no value"


def test_code_version_is_stable():
    assert code_version() == code_version()


def test_ratio():
    measurements = [{"hits": 3, "frames": 4}, {"hits": 0, "frames": 12}, {}]
    assert Ratio("hits", "frames")(measurements) == 3 / 16
    assert Ratio("hits")(measurements) == 1.5
    assert Ratio("hits")([]) != Ratio("hits")([])  # NaN
