"""Progress lines: one every few seconds, with the remaining time."""

from cogvideox.progress import ProgressLines


def test_lines_with_the_remaining_time(monkeypatch):
    clock, lines = [100.0], []
    monkeypatch.setattr("cogvideox.progress.time.monotonic", lambda: clock[0])
    show = ProgressLines(lines.append, 10.0)
    for done in range(1, 9):
        clock[0] += 4.0
        show("denoising", done, 8)
    show("short", 3, 3)  # stages without a line have none at their end
    clock[0] += 10.0
    show("decoding", 5, 9)
    assert lines == ["denoising 3/8, ETA 20 s", "denoising 6/8, ETA 8 s", "denoising 8/8", "decoding 5/9"]


def test_the_interval_of_log_files(capsys, monkeypatch):
    """The captured stderr is no terminal."""
    clock, lines = [0.0], []
    monkeypatch.setattr("cogvideox.progress.time.monotonic", lambda: clock[0])
    show = ProgressLines(lines.append)
    for done in range(20):
        clock[0] += 1.0
        show("encoding clips", done, 100)
    assert lines == ["encoding clips 9/100, ETA 2 min", "encoding clips 19/100, ETA 81 s"]
