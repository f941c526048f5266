"""A picture of the rendered clips with the lowest and highest value of each curation signal, or a table of all columns.

    python examples/signal_extremes.py --out extremes.png
    python examples/signal_extremes.py --table
    python examples/signal_extremes.py --flow

Signals whose packages or model files are missing are left out. `--flow` prints how well the flow of the same clips
agrees between sizes and between frame rates.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvideox.atomic_io import atomic_write
from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.signals.motion import Motion
from cogvideox.curation.signals.registry import SIGNALS
from cogvideox.curation.stages.split import reduce
from cogvideox.toybox.effects import camera, degradation, scenes, text, timing

FPS = 12.0
SIZE = (180, 320)
NUM_FRAMES = 24
SHOWN = (
    *("motion.camera", "motion.shake", "motion.object", "stillness.frozen_share", "stillness.change"),
    *("picture.sharpness", "picture.resolution", "picture.brightness", "picture.contrast", "picture.colorfulness"),
    *("picture.borders", "picture.blockiness", "picture.noise", "screen.flat_share", "screen.line_share"),
    *("screen.color_share", "screen.moire", "text.overlay_area", "text.scene_area", "text.still_area"),
    *("technical.score", "brisque.score"),
)


def render() -> dict[str, np.ndarray]:
    """Return rendered clips by name."""
    still = camera.texture(1, SIZE)
    canvas = camera.texture(2, (400, 900))
    panned = camera.film(canvas, camera.pan(NUM_FRAMES, (8.0, 1.0)), SIZE)
    signed = camera.film(text.paint(canvas, "EXIT 24", (420, 150), 180), camera.pan(NUM_FRAMES, (3.0, 0.0)), SIZE)
    return {
        "pan": panned,
        "shake": camera.film(canvas, camera.shake(NUM_FRAMES, 6.0, 1, FPS), SIZE),
        "zoom": camera.film(canvas, camera.zoom(NUM_FRAMES, 0.01), SIZE),
        "still": still[None].repeat(NUM_FRAMES, 0),
        "talking head": scenes.talking_head(NUM_FRAMES, SIZE, 1, FPS),
        "slides": scenes.slides(NUM_FRAMES, SIZE, 1),
        "screen recording": scenes.screen_recording(NUM_FRAMES, SIZE, 1),
        "half frozen": timing.freeze(panned, 8, 12),
        "subtitles": text.subtitles(panned, ["the first line of text", "and the second line"]),
        "sign": signed,
        "blurred": degradation.blur(panned, 4.0),
        "noisy": degradation.noise(panned, 25.0, 1),
        "JPEG": degradation.jpeg(panned, 6),
        "dark": degradation.expose(panned, 0.15),
        "bright": degradation.expose(panned, 3.0),
        "borders": degradation.add_borders(panned, 0.2),
        "filmed screen": degradation.moire(panned, 5.0, 0.6),
    }


def sample(frames: np.ndarray, sampling: Sampling, fps: float) -> SampledFrames:
    """Return the frames of a rendered clip that a signal needs."""
    seconds = len(frames) / fps
    times = sampling.times(0.0, seconds)
    chosen = np.arange(len(frames)) if times is None else np.unique((np.array(times) * fps).astype(int))
    reduced = np.stack([reduce(frame, sampling.longest_side) for frame in frames[chosen]])
    return SampledFrames(reduced, chosen / fps, seconds)


def measure(clips: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the numbers of each column by clip."""
    columns: dict[str, dict[str, float]] = {}
    for signal in (kind() for kind in SIGNALS.values()):
        if signal.name == "speech" or signal.missing_requirements():
            continue
        function = signal.open()
        for name, frames in clips.items():
            sampled = tuple(sample(frames, sampling, FPS) for sampling in signal.samplings)
            clip = ClipInput({}, sampled, Path(name), 0.0, len(frames) / FPS)
            for column, value in function(clip).items():
                if isinstance(value, float):
                    columns.setdefault(column, {})[name] = value
    return columns


def draw(clips: dict[str, np.ndarray], columns: dict[str, dict[str, float]], path: Path) -> None:
    """Draw for each column the clips of the lowest and the highest value."""
    shown = [column for column in SHOWN if column in columns]
    width, height, title, gap = 160, 90, 15, 6
    per_row = 3
    font = ImageFont.load_default(10)
    num_rows = -(-len(shown) // per_row)
    cell = (2 * width + 3 * gap, height + 2 * title + gap)
    sheet = Image.new("RGB", (per_row * cell[0], num_rows * cell[1]), "white")
    canvas = ImageDraw.Draw(sheet)
    for index, column in enumerate(shown):
        left, top = index % per_row * cell[0], index // per_row * cell[1]
        canvas.text((left + gap, top + 2), column, "black", font)
        values = columns[column]
        for side, name in enumerate((min(values, key=values.__getitem__), max(values, key=values.__getitem__))):
            x = left + gap + side * (width + gap)
            picture = Image.fromarray(clips[name][len(clips[name]) // 2]).resize((width, height))
            sheet.paste(picture, (x, top + title))
            canvas.text((x, top + title + height + 1), f"{values[name]:.3g}  {name}", (90, 90, 90), font)
    with atomic_write(path) as partial:
        sheet.quantize(256).save(partial, "PNG", optimize=True)


def flow_agreement() -> None:
    """Print correlations and ratios of the flow between sizes and frame rates of the same clips."""
    values: dict[str, list[float]] = {"reference": [], "half the size": [], "half the frame rate": []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        path = camera.pan(48, tuple(rng.uniform(-3.0, 3.0, 2))) + camera.shake(48, rng.uniform(0.0, 2.0), seed)
        frames = camera.film(camera.texture(seed, (720, 960)), path, (240, 320))
        small = np.stack([reduce(frame, 160) for frame in frames])
        for name, clip, fps in (
            ("reference", frames, 24.0),
            ("half the size", small, 24.0),
            ("half the frame rate", frames[::2], 12.0),
        ):
            signal = Motion()
            values[name].append(signal.measure(sample(clip, signal.samplings[0], fps))["motion.flow_mean"])
    for name in ("half the size", "half the frame rate"):
        correlation = np.corrcoef(values["reference"], values[name])[0, 1]
        ratio = np.median(np.array(values[name]) / np.array(values["reference"]))
        print(f"{name}: correlation {correlation:.4f}, median ratio {ratio:.3f}")


def print_table() -> None:
    """Print the columns of all signals as a Markdown table."""
    print("| column | description | unit | range |\n| --- | --- | --- | --- |")
    for name in sorted(SIGNALS):
        for column in SIGNALS[name].columns:
            high = " or more" if column.high is None else f" to {column.high:g}"
            bounds = "" if column.low is None else f"{column.low:g}{high}"
            print(f"| `{column.name}` | {column.description} | {column.unit} | {bounds} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("extremes.png"))
    parser.add_argument("--table", action="store_true", help="print the table of columns instead")
    parser.add_argument("--flow", action="store_true", help="print the agreement of flow instead")
    args = parser.parse_args()
    if args.table:
        print_table()
    elif args.flow:
        flow_agreement()
    else:
        clips = render()
        draw(clips, measure(clips), args.out)


if __name__ == "__main__":
    main()
