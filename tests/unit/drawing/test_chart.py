import math

import pytest

from cogvideox.drawing.chart import Axis, Curve, panel, short, thinned
from cogvideox.drawing.figure import Figure, Line, Text


def test_ticks_are_round_numbers_inside():
    assert Axis.over([0, 7], num_ticks=5).ticks == (0, 2, 4, 6)
    assert Axis.over([0.97, 0.999], num_ticks=5).ticks == pytest.approx((0.97, 0.98, 0.99))
    assert Axis.over([0.003, 20.0], num_ticks=5, logarithmic=True).ticks == pytest.approx((0.01, 0.1, 1, 10))
    same = Axis.over([5.0, 5.0], num_ticks=5)
    assert same.low < 5 < same.high and same.place(5.0) == 0.5


def test_places():
    assert [Axis(2, 4, ()).place(x) for x in (2, 3, 4)] == [0, 0.5, 1]
    assert Axis(1, 100, (), logarithmic=True).place(10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25"), (12_000, "12k"), (1.5e6, "1.5M"), (-2e9, "-2G"), (3e-5, "3e-05"), (0, "0")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_curves_stay_inside_their_panel_and_what_is_not_finite_is_left_out():
    figure = Figure(300, 200)
    rising = [(float(step), math.exp(step / 5)) for step in range(30)]  # far enough for a logarithmic axis
    panel(figure, 0, 0, 300, 200, "loss", [Curve([*rising, (30.0, math.nan)], "#112233", dashed=True)])
    (curve,) = (shape for shape in figure.shapes if isinstance(shape, Line) and shape.colour == "#112233")
    assert len(curve.points) == 30 and curve.dashed
    assert all(0 <= x <= 300 and 0 <= y <= 200 for x, y in curve.points)
    steps = [b[1] - a[1] for a, b in zip(curve.points, curve.points[1:])]
    assert max(steps) == pytest.approx(min(steps))  # straight
    panel(figure, 0, 0, 300, 200, "nothing", [Curve([(1.0, math.inf)], "#445566")])
    assert isinstance(figure.shapes[-1], Text) and figure.shapes[-1].content == "nothing"


def test_a_single_point_is_wide_enough_to_be_seen():
    figure = Figure(300, 200)
    panel(figure, 0, 0, 300, 200, "loss", [Curve([(1.0, 2.0)], "#112233"), Curve([(0.0, 1.0), (1.0, 3.0)], "#445566")])
    dot, line = (shape for shape in figure.shapes if isinstance(shape, Line) and shape.colour in ("#112233", "#445566"))
    assert dot.width > 2 * line.width


def test_more_points_than_pixels_are_averaged():
    assert thinned([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)], 2) == [(0.5, 2.0), (2.0, 5.0)]
    assert thinned([(0.0, 1.0)], 100) == [(0.0, 1.0)]
