"""Text reports on a scanned folder: its clips, the windows cut from them, and rejected files."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cogvideox import geometry
from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.ingest.clip_windows import ClipWindow
from cogvideox.dataset.ingest.scan import NO_CAPTION, ScannedFolder
from cogvideox.records import Clip
from cogvideox.untrusted.text_encoding import printable

NUM_VALUES = 5  # number of sizes and frame rates to list
NUM_REJECTS = 20


def format_summary(
    folder: ScannedFolder, clips: Sequence[Clip], windows: Sequence[ClipWindow], target: ClipFormat
) -> str:
    """Summarize durations, frame rates, sizes and captions of a folder's usable clips, and their windows."""
    videos = [clip for clip in clips if not clip.is_image]
    counts = [_count(len(videos), "video"), _count(len(clips) - len(videos), "image")]
    lines = [f"{' and '.join(filter(None, counts)) or 'no usable clips'} ({folder.layout})"]
    if videos:
        seconds = [clip.seconds for clip in videos]
        lines.append(f"  seconds   {_range(seconds)}, {sum(seconds):.1f} in total")
        lines.append(f"  fps       {_most_common(f'{clip.fps:g}' for clip in videos)}")
    if clips:
        lines.append(f"  sizes     {_most_common(f'{clip.width}x{clip.height}' for clip in clips)}")
        lines.append(f"  captions  {_captions([clip.caption for clip in clips])}")
    if windows:
        lines += _windows(windows, target)
    upscaled = sum(window.height > window.clip.height or window.width > window.clip.width for window in windows)
    if upscaled:
        lines.append(f"  {upscaled} of these are upscaled, which blurs them; use --max-size to avoid upscaling")
    return "\n".join([*lines, *(f"  note: {note}" for note in folder.notes)])


def format_rejects(rejects: Sequence[tuple[str, str]]) -> str:
    """List rejected files and rows with their reasons, and how captions are written if one is missing."""
    lines = [f"{len(rejects)} rejected", *_reasons(rejects)]
    uncaptioned = next((Path(source) for source, reason in rejects if reason == NO_CAPTION), None)
    if uncaptioned is not None:
        text_file = printable(str(uncaptioned.with_suffix(".txt")))
        lines.append(f"  write the caption in a text file next to the clip, such as {text_file}, or in a table")
    return "\n".join(lines)


def format_failures(failures: Sequence[tuple[str, str]], num_clips: int) -> str:
    """List the clips that could not be encoded, of `num_clips` planned ones, with their reasons."""
    return "\n".join([f"{len(failures)} of {num_clips} clips rejected while encoding", *_reasons(failures)])


def _reasons(rejects: Sequence[tuple[str, str]]) -> list[str]:
    counts = Counter(f"  {printable(source)}: {printable(reason)}" for source, reason in rejects)
    lines = [f"{line} ({count}x)" if count > 1 else line for line, count in counts.items()]
    return lines[:NUM_REJECTS] + [f"  and {len(lines) - NUM_REJECTS} more"] * (len(lines) > NUM_REJECTS)


def _windows(windows: Sequence[ClipWindow], target: ClipFormat) -> list[str]:
    video_windows = [window for window in windows if not window.clip.is_image]
    counts = []
    if video_windows:
        frames = _most_common(geometry.format_frame_count(window.num_frames) for window in video_windows)
        counts.append(f"{_count(len(video_windows), 'window')} at {target.fps:g} fps: {frames}")
    if len(windows) > len(video_windows):
        counts.append(_count(len(windows) - len(video_windows), "image"))
    sizes = _most_common(f"{window.width}x{window.height}" for window in windows)
    return [f"  the model sees {'; '.join(counts)}", f"  in sizes  {sizes}"]


def _captions(captions: Sequence[str]) -> str:
    lengths = [len(caption.split()) for caption in captions]
    if not any(lengths):
        return "none"
    num_missing = lengths.count(0)
    return f"{_range(lengths)} words" + (f", {num_missing} missing" if num_missing else "")


def _range(numbers: Sequence[float | int]) -> str:
    """Format minimum, maximum and median."""
    low, median, high = min(numbers), statistics.median(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g} (median {median:.4g})"


def _most_common(values: Iterable[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    listed = [f"{value} ({count}x)" for value, count in counts.most_common(NUM_VALUES)]
    return ", ".join(listed) + (f" and {len(counts) - NUM_VALUES} others" if len(counts) > NUM_VALUES else "")


def _count(number: int, noun: str) -> str:
    return "" if number == 0 else f"{number} {noun}{'' if number == 1 else 's'}"
