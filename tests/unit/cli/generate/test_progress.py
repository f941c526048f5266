"""Progress lines of a generation whose output is not a terminal."""

from cogvideox.cli.generate.progress_bar import ProgressLines
from cogvideox.generation.progress import Progress


def test_lines_with_the_remaining_time(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("cogvideox.cli.generate.progress_bar.time.monotonic", lambda: clock[0])
    show = ProgressLines("2/3 ", 10.0)
    for done in range(1, 9):
        clock[0] += 4.0
        show(Progress("denoise", done, 8))
    clock[0] += 10.0
    show(Progress("decode", 5, 9))
    assert capsys.readouterr().err.splitlines() == [
        "cogvideox: 2/3 denoising 3/8, ETA 20 s",
        "cogvideox: 2/3 denoising 6/8, ETA 8 s",
        "cogvideox: 2/3 decoding 5/9",
    ]
