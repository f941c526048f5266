"""What a folder holds and what becomes of it, as a few lines for people."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from cogvideox import geometry
from cogvideox.dataset.config import Target
from cogvideox.dataset.ingest.clip_windows import View
from cogvideox.dataset.ingest.scan import Listing

NUM_COMMON = 5  # sizes and rates that are named
NUM_REJECTS = 20


def summary(listing: Listing, views: Sequence[View], target: Target) -> str:
    """Clips, seconds, sizes, rates and captions of a listing, and what the model will see of it."""
    videos = [clip for clip in listing.clips if not clip.is_image]
    counts = [_count(len(videos), "video"), _count(len(listing.clips) - len(videos), "image")]
    lines = [f"{' and '.join(filter(None, counts)) or 'nothing that can be used'} ({listing.layout})"]
    if videos:
        seconds = [clip.seconds for clip in videos]
        lines.append(f"  seconds   {_range(seconds)}, {sum(seconds):.1f} in all")
        lines.append(f"  fps       {_common(f'{clip.fps:g}' for clip in videos)}")
    if listing.clips:
        lines.append(f"  sizes     {_common(f'{clip.width}x{clip.height}' for clip in listing.clips)}")
        lines.append(f"  captions  {_captions([clip.caption for clip in listing.clips])}")
    if views:
        lines.append(f"  the model sees {_seen(views, target)}")
    enlarged = sum(view.height > view.clip.height or view.width > view.clip.width for view in views)
    if enlarged:
        lines.append(f"  {enlarged} of these are enlarged, which makes them soft; --max-size instead enlarges nothing")
    return "\n".join([*lines, *(f"  note: {note}" for note in listing.notes)])


def rejected(rejects: Sequence[tuple[str, str]]) -> str:
    """What is rejected and why, the pieces of a file once."""
    once = list(dict.fromkeys(rejects))
    lines = [f"{len(once)} rejected", *(f"  {source}: {reason}" for source, reason in once[:NUM_REJECTS])]
    return "\n".join(lines + [f"  and {len(once) - NUM_REJECTS} more"] * (len(once) > NUM_REJECTS))


def _seen(views: Sequence[View], target: Target) -> str:
    pieces = [view for view in views if not view.clip.is_image]
    images = len(views) - len(pieces)
    what = []
    if pieces:
        frames = _common(geometry.format_frames(view.num_frames) for view in pieces)
        what.append(f"{_count(len(pieces), 'piece')} at {target.fps:g} fps: {frames}")
    if images:
        what.append(_count(images, "image"))
    return f"{'; '.join(what)}\n  in sizes  {_common(f'{view.width}x{view.height}' for view in views)}"


def _captions(captions: Sequence[str]) -> str:
    words = [len(caption.split()) for caption in captions]
    without = sum(not num for num in words)
    told = f"{_range(words)} words" if any(words) else "none"
    return told + (f", {without} without" if without and any(words) else "")


def _range(numbers: Sequence[float | int]) -> str:
    """Smallest, middle and largest."""
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g} (median {middle:.4g})"


def _common(values: Iterable[str]) -> str:
    """The commonest values with their counts."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    named = [f"{value} ({count}x)" for value, count in counts.most_common(NUM_COMMON)]
    return ", ".join(named) + (f" and {len(counts) - NUM_COMMON} others" if len(counts) > NUM_COMMON else "")


def _count(number: int, what: str) -> str:
    return "" if number == 0 else f"{number} {what}{'' if number == 1 else 's'}"
