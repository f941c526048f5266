"""What is drawn is in the file and in the pixels alike."""

from xml.etree import ElementTree as ET

import numpy as np

from cogvideox.drawing import font
from cogvideox.drawing.figure import DASH, GAP, SCALE, Figure

BLUE, RED = (0, 0, 255), (255, 0, 0)


def test_a_line_a_rectangle_and_a_dot_are_where_they_were_asked_for():
    figure = Figure(40, 20)
    figure.line([(2, 10), (30, 10)], "#0000ff", width=2)
    figure.rect(32, 0, 4, 20, "#ff0000")
    figure.line([(6, 4)], "#0000ff", width=4)
    figure.line([], "#0000ff")
    pixels = figure.pixels()
    assert pixels.shape == (20 * SCALE, 40 * SCALE, 3)
    assert (pixels[10 * SCALE, 3 * SCALE : 29 * SCALE] == BLUE).all()
    assert (pixels[:, 33 * SCALE : 35 * SCALE] == RED).all()
    assert (pixels[4 * SCALE, 6 * SCALE] == BLUE).all()
    assert (pixels[15 * SCALE, 15 * SCALE] == 255).all()
    inside = {element.tag.split("}")[1] for element in ET.fromstring(figure.svg())}
    assert inside == {"rect", "polyline"}


def test_what_lies_outside_of_the_page_is_cut_off():
    figure = Figure(10, 10)
    figure.line([(-20, 5), (40, 5)], "#0000ff")
    figure.rect(-5, -5, 8, 8, "#ff0000")
    figure.text(-30, 5, "far to the left of the page and beyond its right edge")
    figure.line([(50, 50), (60, 60)], "#0000ff")
    assert (figure.pixels()[5 * SCALE, 5 * SCALE] != 255).any()


def test_dashes_go_on_over_corners():
    figure = Figure(60, 60)
    figure.line([(5, 5), (5 + DASH - 2, 5), (5 + DASH - 2, 50)], "#0000ff", width=1, dashed=True)
    column = figure.pixels()[:, int((5 + DASH - 2) * SCALE), 0]
    on, off = 5 + 1, 5 + 2 + GAP / 2  # the first dash has 2 left after the corner, and then comes a gap
    assert column[int(on * SCALE)] < 128 and column[int(off * SCALE)] == 255


def test_text_is_escaped_and_placed():
    figure = Figure(100, 20)
    figure.text(50, 15, "a<b & c", anchor="middle", bold=True)
    (text,) = (element for element in ET.fromstring(figure.svg()) if element.tag.endswith("text"))
    assert text.text == "a<b & c" and text.attrib["text-anchor"] == "middle"
    columns = np.flatnonzero((figure.pixels() != 255).any((0, 2)))
    assert abs((columns.min() + columns.max()) / 2 - 50 * SCALE) <= SCALE * font.ADVANCE / 2


def test_letters_are_all_different_and_what_has_none_is_a_box():
    letters = {letter: font.dots(letter).tobytes() for letter in map(chr, range(33, 127)) if letter not in "\\`{}"}
    assert len(set(letters.values())) == len(letters)
    assert font.dots("é").any() and (font.dots("é") == font.dots("ü")).all()
    assert not font.dots(" ").any() and font.dots("ab").shape == (font.HEIGHT, 2 * font.ADVANCE)
