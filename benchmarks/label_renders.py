"""Clips with known negative labels, from families that differ between training and test.

Fonts, colors and places of text, scenes, backgrounds, footage, photographs and degradations of the test clips do not
occur in the training clips. About half of the clips are effects applied to real footage. A label is None where the
definitions do not decide it, and then counts neither in training nor in the test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvideox.toybox.effects import camera, degradation, edits, pages, people, scenes, screens, timing, transitions
from cogvideox.toybox.effects import text as texts
from cogvideox.toybox.effects.scenes import ColorScheme
from cogvideox.toybox.effects.text import TextStyle
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

NAMES = ("editing", "static", "low_quality", "lecture", "text", "screenshot")
SIZES = ((144, 256), (180, 320), (192, 256), (240, 320), (216, 384))
Truth = dict[str, bool | None]


@dataclass(frozen=True)
class Family:
    """What the clips of one side are made from.

    Attributes:
        videos, photos: real footage and photographs, by path.
        portraits: photographs with a face: path, x and y of its center, and its height, in pixels.
        talking: real footage of people who talk.
    """

    fonts: list[str | None]
    styles: list[TextStyle]
    schemes: list[ColorScheme]
    grammars: tuple[str, ...]
    videos: list[Path]
    photos: list[Path]
    portraits: list[tuple[Path, tuple[int, int, int]]]
    talking: list[Path]
    anchors: tuple[str, ...]
    corners: tuple[str, ...]
    logos: tuple[str, ...]
    place: str
    shake: float
    degrade: str


@dataclass(frozen=True)
class Render:
    """A rendered clip: frames, rate, truth, the generator, and whether real footage is in it."""

    frames: np.ndarray = field(repr=False)
    fps: float
    truth: Truth
    kind: str
    real: bool
    crf: int = 20


def fonts(pattern: str) -> list[str | None]:
    """Return the installed TrueType fonts that match; Pillow's own font if there are none."""
    return [str(path) for path in sorted(Path("/usr/share/fonts/truetype").glob(pattern))] or [None]


def find_portraits(folder: Path, names: list[str]) -> list[tuple[Path, tuple[int, int, int]]]:
    """Return the frontal faces in photographs. See `Family.portraits`."""
    import cv2
    from cv2 import data

    cascade = cv2.CascadeClassifier(data.haarcascades + "haarcascade_frontalface_default.xml")
    portraits = []
    for name in names:
        if (folder / name).is_file():
            gray = np.asarray(Image.open(folder / name).convert("L"))
            side = min(gray.shape) // 10
            for x, y, width, height in cascade.detectMultiScale(gray, 1.05, 8, minSize=(side, side)):
                portraits.append((folder / name, (int(x + width // 2), int(y + height // 2), int(height))))
    return portraits


def families(footage: Path) -> dict[str, Family]:
    """Return the families of both sides. `footage` holds the videos and photographs, see the docs of the benchmark."""

    def listed(*names: str) -> list[Path]:
        return [footage / name for name in names if (footage / name).is_file()]

    train = Family(
        fonts=fonts("liberation/*.ttf"),
        styles=[
            TextStyle(color=(255, 255, 255), outline=(0, 0, 0)),
            TextStyle(color=(255, 225, 60), outline=None, box=(20, 20, 20)),
            TextStyle(color=(255, 255, 255), outline=None, box=(170, 20, 30)),
            TextStyle(color=(240, 240, 240), outline=None, opacity=0.7),
        ],
        schemes=[scenes.LIGHT, scenes.DARK, ColorScheme((240, 236, 220), (60, 40, 30), (150, 50, 40))],
        grammars=("full",),
        videos=listed("horse.mp4", "kitten.mp4", "bikes.mp4"),
        photos=listed(
            "china.jpg",
            "beach.png",
            "Wall.jpg",
            "kiwi.jpg",
            "faust_github.jpg",
            "image1.jpg",
            "image3.jpg",
            "image5.jpg",
            "image7.jpg",
            "image9.jpg",
        ),
        portraits=find_portraits(footage, ["multi_face.jpg", *(f"sample{number}.jpg" for number in range(1, 7))]),
        talking=[],
        anchors=("top", "bottom", "bottom left"),
        corners=("top left", "bottom right"),
        logos=("ring", "badge"),
        place="office",
        shake=3.0,
        degrade="train",
    )
    test = Family(
        fonts=fonts("dejavu/*.ttf"),
        styles=[
            TextStyle(color=(120, 240, 255), outline=(0, 30, 60)),
            TextStyle(color=(15, 15, 15), outline=None, box=(245, 245, 245)),
            TextStyle(color=(255, 180, 90), outline=(60, 20, 0)),
            TextStyle(color=(200, 255, 200), outline=None, box=(20, 60, 30), opacity=0.85),
        ],
        schemes=[
            ColorScheme((255, 255, 255), (10, 10, 10), (200, 60, 20)),
            ColorScheme((40, 10, 36), (235, 235, 235), (120, 180, 250)),
            ColorScheme((225, 235, 245), (20, 40, 70), (0, 120, 110)),
        ],
        grammars=("core", "pair"),
        videos=listed("gallery-1.mp4", "gallery-2.mp4", "bigbuckbunny.mp4"),
        photos=listed(
            "flower.jpg",
            "street.png",
            "Ill1.jpg",
            "Bubbles.jpg",
            "image2.jpg",
            "image4.jpg",
            "image6.jpg",
            "image8.jpg",
            "image10.jpg",
            "free-mountain-vector-01.jpg",
        ),
        portraits=find_portraits(footage, ["0-f1-su-ph.jpg", "0-f15-hao-ph.jpg", "15-f13-anc-ph.jpg"]),
        talking=listed("carphone_pristine.mp4"),
        anchors=("center", "top left", "top right"),
        corners=("top right", "bottom left"),
        logos=("star",),
        place="library",
        shake=4.5,
        degrade="test",
    )
    return {"train": train, "test": test}


class Generator:
    """Renders clips of one family. The same seed gives the same clip.

    Args:
        hard: half of the clips without defects are filmed by a still camera, and more degradations are mild or mixed.
    """

    def __init__(self, family: Family, seed: int, cache: dict[Path, Any], hard: bool = False) -> None:
        self.family, self.cache, self.hard = family, cache, hard
        self.rng = np.random.default_rng(seed)
        self.seed = int(self.rng.integers(2**31))
        self.size = SIZES[self.rng.integers(len(SIZES))]
        self.fps = float(self.rng.choice([12, 15, 16]))
        self.n = round(self.fps * self.rng.uniform(2.0, 2.8))
        self.real = False

    # material

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def font(self) -> str | None:
        return self.pick(self.family.fonts)

    def style(self, low: float, high: float) -> TextStyle:
        style = self.pick(self.family.styles)
        return TextStyle(
            self.font(), float(self.rng.uniform(low, high)), style.color, style.outline, style.box, style.opacity
        )

    def video(self, path: Path) -> tuple[np.ndarray, float]:
        """Return the frames of a video, reduced to 400 pixels."""
        if path not in self.cache:
            scale = 400 / max(io.probe(path).width, 400)

            def reduce(frame: np.ndarray) -> np.ndarray:
                image = Image.fromarray(frame)
                return np.asarray(
                    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
                )

            self.cache[path] = io.read(path, fps=min(io.probe(path).fps, 16.0), transform=reduce)
        return self.cache[path]

    def footage(self, path: Path | None = None) -> np.ndarray:
        """Return a part of real footage in time and space, without a cut."""
        self.real = True
        for _ in range(30):
            frames, _ = self.video(path or self.pick(self.family.videos))
            n = min(self.n, len(frames))
            first = int(self.rng.integers(len(frames) - n + 1))
            part = frames[first : first + n]
            small = part[:, ::8, ::8].astype(np.float32)
            changes = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
            if small.std() > 12 and changes.max() < 4 * np.median(changes) + 6 and changes.mean() > 0.5:
                break
        part = self.crop(part, 0.6)
        if self.n > len(part):
            part = np.concatenate([part, part[::-1]])[: self.n]
        return part[:, :, ::-1] if self.rng.random() < 0.5 and path is None else part

    def crop(self, clip: np.ndarray, smallest: float) -> np.ndarray:
        height, width = clip.shape[1:3]
        aspect = self.size[1] / self.size[0]
        tall = min(height, width / aspect) * self.rng.uniform(smallest, 1.0)
        rows, columns = int(tall), int(tall * aspect)
        top, left = int(self.rng.integers(height - rows + 1)), int(self.rng.integers(width - columns + 1))
        return edits.resize(clip[:, top : top + rows, left : left + columns], self.size)

    def photo(self) -> np.ndarray:
        self.real = True
        path = self.pick(self.family.photos)
        if path not in self.cache:
            image = Image.open(path).convert("RGB")
            image.thumbnail((800, 800))
            self.cache[path] = np.asarray(image)
        return self.crop(self.cache[path][None], 0.55)[0]

    def toys(self) -> np.ndarray:
        while True:
            seed, grammar = int(self.rng.integers(2**31)), self.pick(self.family.grammars)
            scene = sample_scene(seed, grammar, seconds=(self.n - 1) / self.fps)
            if any(toy.motion not in ("still", "spin") for toy in scene.toys):
                break
        return render_scene(scene, num_frames=self.n, height=self.size[0], width=self.size[1], fps=self.fps).numpy()

    def parallax(self) -> np.ndarray:
        """Return two or three textured planes that move at different speeds before a moving camera."""
        height, width = self.size
        velocity = self.rng.normal(size=2) * height / 100
        back = camera.texture(self.seed, (2 * height, 2 * width), float(self.rng.uniform(1.0, 1.5)))
        clip = camera.film(back, camera.pan(self.n, tuple(velocity)), self.size)
        y, x = np.mgrid[:height, :width]
        for plane in range(int(self.rng.integers(1, 4))):
            front = camera.texture(self.seed + plane + 1, self.size, float(self.rng.uniform(0.9, 1.6)))
            at, speed = self.rng.uniform(0.1, 0.9, 2) * (height, width), self.rng.normal(size=2) * height / 40
            radii = self.rng.uniform(0.08, 0.25, 2) * height
            for index in range(self.n):
                cy, cx = at + speed * index
                inside = ((y - cy) / radii[0]) ** 2 + ((x - cx) / radii[1]) ** 2 < 1
                if self.family.degrade == "test":
                    inside = (np.abs(y - cy) < radii[0]) & (np.abs(x - cx) < radii[1])
                clip[index][inside] = np.roll(front, (int(cy), int(cx)), (0, 1))[inside]
        return clip

    def base(self) -> np.ndarray:
        """Return a clip without defects: real footage or a rendered scene."""
        if self.hard and self.rng.random() < 0.5:
            return self.still_camera()
        draw = self.rng.random()
        return self.footage() if draw < 0.6 else self.toys() if draw < 0.85 else self.parallax()

    def still_camera(self) -> np.ndarray:
        """Return objects that move before a photograph or a texture, filmed by a still or a breathing camera."""
        height, width = self.size
        back = self.photo() if self.rng.random() < 0.75 else camera.texture(self.seed, self.size, 1.3)
        clip = np.repeat(back[None], self.n, 0)
        y, x = np.mgrid[:height, :width]
        for number in range(int(self.rng.integers(1, 4))):
            front = self.photo() if self.rng.random() < 0.5 else camera.texture(self.seed + number + 1, self.size, 1.4)
            at, speed = self.rng.uniform(0.15, 0.85, 2) * (height, width), self.rng.normal(size=2) * height / 50
            radii, phase = self.rng.uniform(0.07, 0.3, 2) * height, self.rng.uniform(0, 6, 2)
            for index in range(self.n):
                cy, cx = at + speed * index + 0.03 * height * np.sin(0.4 * index + phase)
                inside = ((y - cy) / radii[0]) ** 2 + ((x - cx) / radii[1]) ** 2 < 1 + 0.2 * np.sin(0.3 * index)
                clip[index][inside] = np.roll(front, (int(cy), int(cx)), (0, 1))[inside]
        if self.rng.random() < 0.5:
            path = camera.shake(self.n, 0.002 * height, self.seed, self.fps, 1.0)
            clip = camera.film(clip, path, self.size)
        return degradation.noise(clip, float(self.rng.uniform(0.5, 2.0)), self.seed)

    def head(self) -> tuple[np.ndarray, str]:
        """Return a talking person."""
        draw = self.rng.random()
        if self.family.talking and draw < 0.3:
            return self.footage(self.pick(self.family.talking)), "recording"
        if self.family.portraits and draw < 0.7:
            self.real = True
            path, (x, y, side) = self.pick(self.family.portraits)
            image = Image.open(path).convert("RGB")
            tall = side * self.rng.uniform(1.8, 3.0)
            tall = min(tall, image.height, image.width * self.size[0] / self.size[1] * 2)
            wide = tall * self.size[1] / self.size[0]
            left, top = x - wide * self.rng.uniform(0.4, 0.6), y - tall * self.rng.uniform(0.4, 0.5)
            top = min(max(0.0, top), max(0.0, image.height - tall))
            scale = self.size[0] / tall
            part = image.transform(
                self.size[::-1],
                Image.Transform.AFFINE,
                (1 / scale, 0, left, 0, 1 / scale, top),
                Image.Resampling.BICUBIC,
            )
            array = np.asarray(part).copy()
            known = np.clip([-left * scale, (image.width - left) * scale], 0, self.size[1]).round().astype(int)
            array[:, : known[0]], array[:, known[1] :] = (
                self.pick([(120, 130, 150), (70, 80, 70), (190, 185, 175)]),
            ) * 2
            face = ((x - left) * scale, (y - top) * scale, side * scale / 2)
            return people.talking_photo(array, face, self.n, self.seed, self.fps), "photo"
        if self.family.degrade == "train" and draw > 0.92:
            return scenes.talking_head(self.n, self.size, self.seed, self.fps), "drawn"
        return people.presenter(self.n, self.size, self.seed, self.fps, self.family.place), "drawn"

    # generators: each returns frames, truth of the labels that are not False, and a name

    def clean(self) -> tuple[np.ndarray, Truth, str]:
        clip, kind = self.base(), "clean"
        draw = self.rng.random()
        if draw < 0.25:
            path = camera.pan(self.n, tuple(self.rng.normal(size=2) * self.size[0] / 180))
            clip, kind = camera.film(clip, path, self.size), "clean, moving camera"
        elif draw < 0.5:
            mild: list[Callable] = [
                partial(degradation.blur, radius=0.5),
                partial(degradation.noise, sigma=2.5, seed=self.seed),
                partial(degradation.jpeg, quality=80),
                partial(degradation.expose, gain=float(self.rng.uniform(0.85, 1.1))),
            ]
            clip, kind = self.pick(mild)(clip), "clean, mild degradation"
        return clip, {}, kind

    def editing(self) -> tuple[np.ndarray, Truth, str]:
        kind = self.pick(
            [
                "cuts",
                "dissolve",
                "fade",
                "wipe",
                "title",
                "subtitles",
                "watermark",
                "logo",
                "ticker",
                "inset",
                "split",
                "sides",
                "frame",
                "strobe",
            ]
        )
        truth: Truth = {"editing": True}
        clip, n, corner = self.base(), self.n, self.pick(self.family.corners)
        if kind == "cuts":
            shots = [self.base()[: n // 2 + 1], clip[n // 2 :], self.base()[: n // 3]][: int(self.rng.integers(2, 4))]
            clip, truth["static"] = transitions.join(shots, [0] * (len(shots) - 1))[0], None
        elif kind == "dissolve":
            mixed = int(self.rng.integers(5, n // 3))
            clip, _ = transitions.join([clip[: 2 * n // 3], self.base()[: 2 * n // 3]], [mixed])
        elif kind == "fade":
            clip = transitions.fade(clip, int(self.rng.integers(6, n // 3)))
        elif kind == "wipe":
            clip = edits.wipe(
                clip, self.base(), n // 4, int(self.rng.integers(5, n // 2)), bool(self.rng.random() < 0.5)
            )
        elif kind == "title":
            clip, _ = texts.overlay(
                clip,
                texts.sentence(self.seed, int(self.rng.integers(2, 5))),
                self.pick(self.family.anchors),
                self.style(0.06, 0.12),
            )
        elif kind == "subtitles":
            clip = texts.subtitles(
                clip, [texts.sentence(self.seed + line, 5) for line in range(2)], self.style(0.055, 0.085)
            )
        elif kind == "watermark":
            style = self.style(0.045, 0.08)
            style = TextStyle(
                style.font, style.size, style.color, style.outline, None, float(self.rng.uniform(0.4, 0.9))
            )
            clip, _ = texts.overlay(clip, texts.sentence(self.seed, 1).title() + ".com", corner, style)
        elif kind == "logo":
            clip = edits.logo(clip, self.seed, corner, float(self.rng.uniform(0.6, 1.0)), self.pick(self.family.logos))
        elif kind == "ticker":
            style = self.style(0.06, 0.09)
            style = TextStyle(style.font, style.size, style.color, None, style.box or (160, 0, 0), 1.0)
            clip = texts.ticker(clip, texts.sentence(self.seed, 9), self.size[0] / 100, style)
        elif kind == "inset":
            border = self.pick([None, (255, 255, 255), (20, 20, 20)])
            clip = edits.picture_in_picture(clip, self.base(), corner, float(self.rng.uniform(0.28, 0.4)), border)
        elif kind == "split":
            clip = edits.split_screen(clip, self.base(), bool(self.rng.random() < 0.7))
        elif kind == "sides":
            clip = edits.blurred_sides(clip, float(self.rng.uniform(0.35, 0.55)))
        elif kind == "frame":
            clip = edits.decorated_frame(clip, self.seed, float(self.rng.uniform(0.06, 0.14)))
        else:
            clip, truth["static"] = (
                edits.strobe(clip, int(self.rng.integers(3, 7)), self.pick(["invert", "mirror", "tint"])),
                None,
            )
        return clip, truth, kind

    def static(self) -> tuple[np.ndarray, Truth, str]:
        kind = self.pick(
            ["slide show", "zoomed still", "panned still", "freeze", "jumps", "stutter", "noisy still", "still"]
        )
        truth: Truth = {"static": True, "editing": None}
        n = self.n
        still = self.photo() if self.rng.random() < 0.6 else self.base()[0]
        if kind == "slide show":
            images = [
                still,
                *(
                    self.photo() if self.rng.random() < 0.6 else self.base()[0]
                    for _ in range(int(self.rng.integers(1, 3)))
                ),
            ]
            clip, truth["editing"] = timing.slide_show(images, n // len(images), self.pick([0.0, 0.004])), True
        elif kind == "zoomed still":
            clip = camera.film(still, camera.zoom(n, float(self.rng.uniform(0.003, 0.012))), self.size)
        elif kind == "panned still":
            zoomed = camera.zoom(n, 0.0)
            path = camera.CameraPath(zoomed.shift, zoomed.zoom * 1.25, zoomed.angle) + camera.pan(
                n, tuple(self.rng.normal(size=2) * self.size[0] / 200)
            )
            clip = camera.film(still, path, self.size)
        elif kind == "freeze":
            length = int(n * self.rng.uniform(0.55, 0.85))
            clip = timing.freeze(self.base(), int(self.rng.integers(0, n - length)), length)
        elif kind == "jumps":
            part, step = self.base(), max(2, n // int(self.rng.integers(4, 7)))
            order = self.rng.permutation(np.arange(0, n - step + 1, step))
            clip, truth["editing"] = np.concatenate([part[first : first + step] for first in order]), True
        elif kind == "stutter":
            clip = timing.time_lapse(self.base(), int(self.rng.integers(5, 9)))
        elif kind == "noisy still":
            clip, truth["low_quality"] = (
                degradation.noise(np.repeat(still[None], n, 0), float(self.rng.uniform(2, 6)), self.seed),
                None,
            )
        else:
            clip = np.repeat(still[None], n, 0)
        return clip, truth, kind

    def degraded(self, clip: np.ndarray) -> tuple[np.ndarray, str, int]:
        """Return a clip of low quality, how it was degraded, and the quality of its encoding."""
        rng, height = self.rng, self.size[0]
        if self.family.degrade == "train":
            more = ["crushed", "faded", "enlarged jpeg", "blurred noise"] if self.hard else []
            kind = self.pick(["blur", "jpeg", "noise", "dark", "bright", "enlarged", "shake", *more])
            effects: dict[str, Callable] = {
                "blur": lambda: degradation.blur(clip, float(rng.uniform(0.012, 0.03)) * height),
                "jpeg": lambda: degradation.jpeg(clip, int(rng.integers(4, 14))),
                "noise": lambda: degradation.noise(clip, float(rng.uniform(14, 40)), self.seed),
                "dark": lambda: degradation.noise(
                    degradation.expose(clip, float(rng.uniform(0.08, 0.25))), 3.0, self.seed
                ),
                "bright": lambda: degradation.expose(clip, float(rng.uniform(2.2, 3.5))),
                "enlarged": lambda: degradation.enlarge(clip, float(rng.uniform(3.5, 7))),
                "shake": lambda: self.shaken(clip),
                "crushed": lambda: (clip - rng.uniform(110, 170)).clip(0, 255).astype(np.uint8),
                "faded": lambda: (rng.uniform(150, 200) + 0.2 * clip).clip(0, 255).astype(np.uint8),
                "enlarged jpeg": lambda: degradation.jpeg(degradation.enlarge(clip, 3.0), int(rng.integers(8, 25))),
                "blurred noise": lambda: degradation.blur(degradation.noise(clip, 30.0, self.seed), 1.2),
            }
            return effects[kind](), kind, 20
        kind = self.pick(["encoded", "motion blur", "grain", "gamma", "washed out", "pixels", "shake"])
        crf = 20
        if kind == "encoded":
            crf = int(rng.integers(43, 50))
        elif kind == "motion blur":
            length = max(5, round(float(rng.uniform(0.04, 0.08)) * height))
            kernel = [np.roll(clip, shift - length // 2, 2).astype(np.float32) for shift in range(length)]
            clip = np.mean(kernel, 0).round().astype(np.uint8)
        elif kind == "grain":
            small = rng.normal(0, float(rng.uniform(14, 34)), (len(clip), height, self.size[1], 1))
            chroma = rng.normal(0, 10, clip.shape)
            clip = (clip + small + chroma).round().clip(0, 255).astype(np.uint8)
        elif kind == "gamma":
            power = float(rng.uniform(3.0, 5.0))
            clip = degradation.noise((255 * (clip / 255) ** power).astype(np.uint8), 2.0, self.seed)
        elif kind == "washed out":
            clip = (255 * (clip / 255) ** float(rng.uniform(0.12, 0.25))).clip(0, 255).astype(np.uint8)
        elif kind == "pixels":
            block = int(rng.integers(3, 7))
            small = clip[:, ::block, ::block]
            clip = small.repeat(block, 1).repeat(block, 2)[:, :height, : self.size[1]]
            clip = np.pad(
                clip, [(0, 0), (0, height - clip.shape[1]), (0, self.size[1] - clip.shape[2]), (0, 0)], mode="edge"
            )
        else:
            clip = self.shaken(clip)
        return np.ascontiguousarray(clip), kind, crf

    def shaken(self, clip: np.ndarray) -> np.ndarray:
        amplitude = float(self.rng.uniform(0.02, 0.045)) * self.size[0]
        path = camera.shake(len(clip), amplitude, self.seed, self.fps, self.family.shake)
        return camera.film(clip, camera.CameraPath(path.shift, path.zoom * 1.15, path.angle), self.size)

    def lecture(self) -> tuple[np.ndarray, Truth, str]:
        clip, kind = self.head()
        truth: Truth = {"lecture": True, "static": None if kind != "recording" else False}
        draw = self.rng.random()
        if draw < 0.2:
            clip, _ = texts.overlay(clip, texts.sentence(self.seed, 3).title(), "bottom left", self.style(0.06, 0.08))
            truth["editing"], kind = True, kind + ", name"
        elif draw < 0.3:
            slide = scenes.slides(self.n, self.size, self.seed, 1, self.pick(self.family.schemes), self.font())
            clip = edits.picture_in_picture(slide, clip, self.pick(self.family.corners), 0.4)
            truth |= {"text": True, "editing": True, "static": None, "screenshot": None}
            kind += ", slide"
        return clip, truth, "talking " + kind

    def text(self) -> tuple[np.ndarray, Truth, str]:
        kind = self.pick(["slides", "credits", "card", "card over footage", "captions", "document"])
        truth: Truth = {"text": True, "editing": True}
        scheme = self.pick(self.family.schemes)
        if kind == "slides":
            clip = scenes.slides(self.n, self.size, self.seed, int(self.rng.integers(1, 4)), scheme, self.font())
            truth |= {"static": True, "editing": None, "screenshot": None}
        elif kind == "credits":
            style = TextStyle(self.font(), float(self.rng.uniform(0.06, 0.09)), scheme.text, None)
            clip = pages.credits_roll(self.n, self.size, self.seed, style, scheme.background)
            truth["screenshot"] = None
        elif kind == "card":
            plain = np.full((self.n, *self.size, 3), scheme.background, np.uint8)
            style = TextStyle(self.font(), float(self.rng.uniform(0.09, 0.16)), scheme.text, None)
            clip = pages.title_card(plain, self.seed, int(self.rng.integers(2, 4)), style)
            truth |= {"static": True, "editing": None}
        elif kind == "card over footage":
            clip = pages.title_card(self.base(), self.seed, int(self.rng.integers(3, 5)), self.style(0.1, 0.15))
        elif kind == "captions":
            clip = pages.captions_over(self.base(), self.seed, self.style(0.1, 0.15), int(self.rng.integers(3, 5)))
        else:
            paper = screens.page(
                self.size, self.seed, ColorScheme(scheme.background, scheme.text, scheme.text), self.font(), 2
            )
            path = camera.pan(self.n, (0.0, float(self.rng.uniform(0.2, 0.8)))) + camera.zoom(self.n, 0.002)
            clip = camera.film(paper[: round(1.5 * self.size[0])], path, self.size)
            truth |= {"static": None, "editing": None, "screenshot": None}
        return clip, truth, kind

    def screenshot(self) -> tuple[np.ndarray, Truth, str]:
        kind = self.pick(
            [
                "desktop",
                "terminal",
                "terminal window",
                "scrolled page",
                "window",
                "filmed footage",
                "filmed page",
                "filmed desktop",
            ]
        )
        truth: Truth = {"screenshot": True, "static": None, "editing": False}
        scheme, font = self.pick(self.family.schemes), self.font()
        if kind.startswith("terminal"):
            clip = screens.terminal(self.n, self.size, self.seed, scheme, font, "window" in kind)
            truth["text"] = None
        elif kind in ("desktop", "filmed desktop"):
            clip = scenes.screen_recording(self.n, self.size, self.seed, scheme, font)
            truth["text"] = None
        elif kind in ("scrolled page", "filmed page"):
            clip = screens.scroll(screens.page(self.size, self.seed, scheme, font), self.n, self.size[0], self.seed)
            truth["text"] = None
        elif kind == "window":
            clip, truth["static"], truth["editing"] = screens.window(self.base(), self.seed, scheme, font), False, None
        else:
            clip, truth["static"], truth["editing"] = self.base(), False, None
        if kind.startswith("filmed"):
            clip = screens.filmed_screen(
                clip, self.seed, float(self.rng.uniform(3.0, 8.0)), float(self.rng.uniform(0.12, 0.35))
            )
            truth |= {"low_quality": None, "editing": None}
        return clip, truth, kind

    def render(self) -> Render:
        """Return a clip of a random kind."""
        kinds = [self.clean, self.editing, self.static, None, self.lecture, self.text, self.screenshot]
        chosen = self.rng.choice(len(kinds), p=[0.17, 0.19, 0.15, 0.14, 0.13, 0.11, 0.11])
        make, crf = kinds[chosen], int(self.rng.integers(15, 25))
        if make is None:
            clip, what, low = self.degraded(self.base())
            return self.finish(clip, {"low_quality": True}, what, max(crf, low))
        clip, truth, kind = make()
        if self.rng.random() < 0.1 and truth.get("static") is not True and truth.get("text") is not True:
            clip, what, low = self.degraded(edits.resize(clip, self.size))
            hidden = (
                {name: None for name in ("editing", "text", "lecture") if truth.get(name)} if what == "shake" else {}
            )
            return self.finish(clip, truth | hidden | {"low_quality": True}, f"{kind}, {what}", max(crf, low))
        return self.finish(clip, truth, kind, crf)

    def finish(self, clip: np.ndarray, truth: Truth, kind: str, crf: int) -> Render:
        complete = {name: truth.get(name, False) for name in NAMES}
        return Render(np.ascontiguousarray(clip), self.fps, complete, kind, self.real, crf)
