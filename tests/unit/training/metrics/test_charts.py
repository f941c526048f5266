"""Charts: plotted points, axes, and reproducible files."""

import math

import numpy as np
import pytest

from cogvideox.errors import UserError
from cogvideox.training.metrics.charts import MAX_POINTS, Curve, chart, draw, legend
from cogvideox.video.io import read_image

RED = "#ff0000"


def draw_chart(path, curves, **options):
    """Draw curves on one pair of axes and return it."""
    with chart(path, 3.0, 2.0) as figure:
        axes = figure.subplots()
        draw(axes, "loss", curves, **options)
    return axes


def num_red(path):
    return (read_image(path) == (255, 0, 0)).all(-1).sum()


def test_a_single_point_is_visible(tmp_path):
    draw_chart(tmp_path / "dot.png", [Curve([(1.0, 2.0)], RED)])
    assert num_red(tmp_path / "dot.png") > 20


def test_nonfinite_values_are_not_plotted(tmp_path):
    axes = draw_chart(tmp_path / "x.svg", [Curve([(0.0, 1.0), (1.0, math.nan), (math.inf, 1.0), (2.0, 3.0)], RED)])
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [2, 3]]
    axes = draw_chart(tmp_path / "x.svg", [Curve([(0.0, math.nan)], RED)])
    assert not axes.lines and ">loss<" in (tmp_path / "x.svg").read_text()


def test_a_wide_range_gets_a_logarithmic_axis(tmp_path):
    rising = [(float(step), math.exp(step / 5)) for step in range(30)]
    assert draw_chart(tmp_path / "x.svg", [Curve(rising, RED)]).get_yscale() == "log"
    assert draw_chart(tmp_path / "x.svg", [Curve([*rising, (30.0, -1.0)], RED)]).get_yscale() == "linear"
    assert "1e" not in (tmp_path / "x.svg").read_text().split("<text")[-1]


def test_long_curves_are_downsampled_by_averaging():
    assert Curve([(0.0, 1.0)], RED).plotted_points() == [(0.0, 1.0)]
    long = Curve([(float(x), float(x % 2)) for x in range(2 * MAX_POINTS)], RED).plotted_points()
    assert long == [(2 * i + 0.5, 0.5) for i in range(MAX_POINTS)]


def test_ticks_of_steps_are_integers(tmp_path):
    axes = draw_chart(tmp_path / "x.svg", [Curve([(1.0, 2.0)], RED)], integer_x=True)
    assert [tick for tick in axes.get_xticks() if 0.5 < tick < 1.5] == [1]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_equal_charts_give_equal_files(tmp_path, ending):
    for name in "ab":
        with chart(tmp_path / f"{name}.{ending}", 4.0, 3.0) as figure:
            curves = [Curve([(0.0, 1.0), (1.0, 0.5)], RED), Curve([(0.0, 0.9)], "#0000ff", dashed=True)]
            draw(figure.subplots(), "loss of $a_b$ & <c>", curves)
            legend(figure, [("run", curves[0])])
    first, second = (np.fromfile(tmp_path / f"{name}.{ending}", dtype=np.uint8) for name in "ab")
    assert np.array_equal(first, second)


def test_an_unsupported_suffix_is_rejected_and_an_error_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.svg or \.png"), chart(tmp_path / "x.pdf", 3.0, 2.0):
        pass
    with pytest.raises(ZeroDivisionError), chart(tmp_path / "x.svg", 3.0, 2.0):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
