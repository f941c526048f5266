"""Undamaged clips of one family, of which `label_renders` makes clips with known labels."""

from pathlib import Path
from typing import Any

import numpy as np
from label_families import Family
from PIL import Image

from cogvideox.toybox.effects import camera, degradation, edits, people, scenes
from cogvideox.toybox.effects.text import TextStyle
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

SIZES = ((144, 256), (180, 320), (192, 256), (240, 320), (216, 384))


class Material:
    """Clips of one family without defects. The same seed gives the same clip.

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
        part = self.crop(
            part, 0.6 if path is None else 0.85
        )  # a given recording shows a face, which stays in the picture
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
                if self.family.degrade in ("test", "fresh"):
                    inside = (np.abs(y - cy) < radii[0]) & (np.abs(x - cx) < radii[1])
                clip[index][inside] = np.roll(front, (int(cy), int(cx)), (0, 1))[inside]
        return clip

    def base(self) -> np.ndarray:
        """Return a clip without defects: real footage or a rendered scene."""
        if self.hard and self.rng.random() < 0.5:
            return self.still_camera()
        draw, real = self.rng.random(), self.family.real
        if draw < real:
            return self.moving_footage() if self.family.degrade in ("varied", "broad") else self.footage()
        return self.toys() if draw < 1 - 0.375 * (1 - real) else self.parallax()

    def moving_footage(self) -> np.ndarray:
        """Return a part of real footage in which something moves: crops of a still camera's pictures may not."""
        for _ in range(10):
            clip = self.footage()
            if np.abs(np.diff(clip[:, ::4, ::4].astype(np.float32), axis=0)).mean() > 0.8:
                break
        return clip

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
        if self.family.talking and draw < (0.6 if self.family.degrade == "broad" else 0.3):
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
        if self.family.degrade in ("train", "wide", "varied", "broad") and draw > 0.92:
            return scenes.talking_head(self.n, self.size, self.seed, self.fps), "drawn"
        return people.presenter(self.n, self.size, self.seed, self.fps, self.family.place), "drawn"

    # generators: each returns frames, truth of the labels that are not False, and a name
