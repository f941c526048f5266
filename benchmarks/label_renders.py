"""Clips with known negative labels, from families that differ between training and test.

Fonts, colors and positions of text, scenes, backgrounds, footage, photographs and degradations of the test clips do not
occur in the training clips. About half of the clips are effects applied to real footage. A label is None where the
definitions do not decide it, and then counts neither in training nor in the test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import label_degradations as degrade
import numpy as np
from label_cards import draw_test_card
from label_degradations import recode
from label_material import Material

from cogvideox.toybox.effects import camera, degradation, edits, pages, scenes, screens, timing, transitions
from cogvideox.toybox.effects import text as texts
from cogvideox.toybox.effects.scenes import ColorScheme
from cogvideox.toybox.effects.text import TextStyle

NAMES = ("editing", "static", "low_quality", "lecture", "text", "screenshot")
Truth = dict[str, bool | None]


@dataclass(frozen=True)
class Render:
    """A rendered clip.

    It has frames, frame rate, true labels, kind, whether it contains real footage, and the CRF of its encoding.
    """

    frames: np.ndarray = field(repr=False)
    fps: float
    truth: Truth
    kind: str
    real: bool
    crf: int = 20


class Generator(Material):
    """Renders clips of one family with known labels. The same seed gives the same clip."""

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
        kinds = ["slide show", "zoomed still", "panned still", "freeze", "jumps", "stutter", "noisy still", "still"]
        if self.family.degrade == "varied":
            kinds = [*kinds, "flickering still", "test card", "test card"]
        elif self.family.degrade == "broad":
            kinds = [*kinds, *["flickering still", "nearly still", "test card"] * 3]
        kind = self.pick(kinds)
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
        elif kind == "flickering still":
            gains = 1 + self.rng.uniform(0.01, 0.05) * np.sin(self.rng.uniform(0.2, 1.5) * np.arange(n))
            path = camera.shake(n, 0.002 * self.size[0], self.seed, self.fps, 1.0)
            clip = camera.film(still, path, self.size) * gains[:, None, None, None]
            clip = degradation.noise(clip.clip(0, 255).astype(np.uint8), 1.0, self.seed)
        elif kind == "nearly still":
            clip, truth["low_quality"] = self.nearly_still(still), None  # it may look shaken
        elif kind == "test card":
            clip, large = draw_test_card(n, self.size, self.fps, self.font(), self.rng)
            truth |= {"text": True if large else None, "screenshot": None}
        else:
            clip = np.repeat(still[None], n, 0)
        return clip, truth, kind

    def nearly_still(self, still: np.ndarray) -> np.ndarray:
        """Return a still whose parts change a little, at random, every few frames, as between shots of a time lapse."""
        height, width = self.size
        clip = np.repeat(still[None].astype(np.float32), self.n, 0)
        hold = int(self.rng.integers(1, 6))
        for start in range(0, self.n, hold):
            for _ in range(int(self.rng.integers(1, 4))):
                y, x = (int(self.rng.integers(side)) for side in (height, width))
                rows, columns = (max(4, int(self.rng.uniform(0.05, 0.3) * side)) for side in (height, width))
                part = (slice(start, start + hold), slice(y, y + rows), slice(x, x + columns))
                clip[part] *= self.rng.uniform(0.85, 1.15)
            shift = np.round(self.rng.normal(size=2) * 0.6).astype(int)
            clip[start : start + hold] = np.roll(clip[start : start + hold], tuple(shift), (1, 2))
        return degradation.noise(clip.clip(0, 255).astype(np.uint8), float(self.rng.uniform(0.3, 1.5)), self.seed)

    def degraded(self, clip: np.ndarray) -> tuple[np.ndarray, str, int]:
        """Return a clip of low quality, how it was degraded, and the CRF of its encoding."""
        rng, height = self.rng, self.size[0]
        train: dict[str, Callable[[], np.ndarray]] = {
            "blur": lambda: degradation.blur(clip, float(rng.uniform(0.012, 0.03)) * height),
            "jpeg": lambda: degradation.jpeg(clip, int(rng.integers(4, 14))),
            "noise": lambda: degradation.noise(clip, float(rng.uniform(14, 40)), self.seed),
            "dark": lambda: degradation.noise(degradation.expose(clip, float(rng.uniform(0.08, 0.25))), 3.0, self.seed),
            "bright": lambda: degradation.expose(clip, float(rng.uniform(2.2, 3.5))),
            "enlarged": lambda: degradation.enlarge(clip, float(rng.uniform(3.5, 7))),
            "shake": lambda: self.shaken(clip),
        }
        hard: dict[str, Callable[[], np.ndarray]] = {
            "crushed": lambda: (clip - rng.uniform(110, 170)).clip(0, 255).astype(np.uint8),
            "faded": lambda: (rng.uniform(150, 200) + 0.2 * clip).clip(0, 255).astype(np.uint8),
            "enlarged jpeg": lambda: degradation.jpeg(degradation.enlarge(clip, 3.0), int(rng.integers(8, 25))),
            "blurred noise": lambda: degradation.blur(degradation.noise(clip, 30.0, self.seed), 1.2),
        }
        wide: dict[str, Callable[[], np.ndarray]] = {
            "defocus": lambda: degrade.defocus(clip, float(rng.uniform(0.015, 0.035)) * height),
            "zoom blur": lambda: degrade.zoom_blur(clip, float(rng.uniform(0.08, 0.18))),
            "MPEG-4": lambda: recode(clip, self.fps, "mpeg4", qmin="31", qmax="31"),
            "ghosts": lambda: degrade.ghosts(clip, int(rng.integers(5, 9))),
        }
        varied: dict[str, Callable[[], np.ndarray]] = {
            "MPEG-2": lambda: recode(clip, self.fps, "mpeg2video", qmin="28", qmax="31"),
            "MS MPEG-4": lambda: recode(clip, self.fps, "msmpeg4", qmin="28", qmax="31"),
            "HEVC": lambda: recode(
                clip,
                self.fps,
                "libx265",
                crf=str(rng.integers(40, 49)),
                preset="ultrafast",
                x265_params="log-level=none",
            ),
            "rotation blur": lambda: degrade.rotation_blur(clip, float(rng.uniform(3, 7))),
            "trajectory blur": lambda: degrade.trajectory_blur(clip, float(rng.uniform(0.05, 0.1)) * height, rng),
            "dark tones": lambda: degrade.tone_curve(clip, float(rng.uniform(6, 14))),
            "bright tones": lambda: degrade.tone_curve(clip, float(rng.uniform(0.06, 0.15))),
            "old film": lambda: degrade.old_film(clip, float(rng.uniform(0.1, 0.3)), rng),
            "impulses": lambda: degrade.impulse_noise(clip, float(rng.uniform(0.02, 0.08)), rng),
            "lost blocks": lambda: degrade.lost_blocks(clip, float(rng.uniform(0.05, 0.2)), rng),
        }
        test: dict[str, Callable[[], np.ndarray]] = {
            "encoded": lambda: clip,
            "motion blur": lambda: degrade.motion_blur(clip, max(5, round(float(rng.uniform(0.04, 0.08)) * height))),
            "grain": lambda: degrade.grain(clip, float(rng.uniform(14, 34)), rng),
            "gamma": lambda: degradation.noise(degrade.gamma(clip, float(rng.uniform(3.0, 5.0))), 2.0, self.seed),
            "washed out": lambda: degrade.gamma(clip, float(rng.uniform(0.12, 0.25))),
            "pixels": lambda: degrade.pixels(clip, int(rng.integers(3, 7))),
            "shake": lambda: self.shaken(clip),
        }
        fresh: dict[str, Callable[[], np.ndarray]] = {
            "VP8": lambda: recode(clip, self.fps, "libvpx", crf="63", qmin="60", qmax="63", cpu_used="4"),
            "diagonal blur": lambda: degrade.diagonal_blur(
                clip, max(6, round(float(rng.uniform(0.04, 0.08)) * height))
            ),
            "night": lambda: degrade.shot_noise(clip, float(rng.uniform(0.1, 0.2)), rng),
            "interlaced": lambda: degrade.interlace(clip, int(rng.integers(3, 6))),
            "analog": lambda: degrade.analog(clip, float(rng.uniform(16, 32)), rng),
            "bloom": lambda: degrade.bloom(clip, float(rng.uniform(1.6, 2.4)), 0.04 * height),
            "shake": lambda: self.shaken(clip),
        }
        families = {
            "train": train | (hard if self.hard else {}),
            "wide": train | hard | wide,
            "varied": train | hard | wide | varied,
            "broad": wide | varied,
            "test": test,
            "fresh": fresh,
        }
        effects = families[self.family.degrade]
        kind = self.pick(list(effects))
        crf = int(rng.integers(43, 50)) if kind == "encoded" else 20
        return np.ascontiguousarray(effects[kind]()), kind, crf

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
        kinds = ["slides", "credits", "card", "card over footage", "captions", "document"]
        if self.family.degrade == "broad":
            kinds = [*kinds, *["drawn title"] * 3]
        kind = self.pick(kinds)
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
        elif kind == "drawn title":
            drawn = self.toys() if self.rng.random() < 0.6 else self.parallax()
            clip = pages.title_card(drawn, self.seed, int(self.rng.integers(1, 3)), self.style(0.15, 0.26))
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
        chosen = self.rng.choice(len(kinds), p=self.family.kinds)
        make, crf = kinds[chosen], int(self.rng.integers(15, 25))
        if make is None:
            clean = self.base()
            clip, effect, min_crf = self.degraded(clean)
            visible = effect == "shake" or degrade.is_visible(clean, clip, self.fps, max(crf, min_crf))
            return self.finish(clip, {"low_quality": visible or None}, effect, max(crf, min_crf))
        clip, truth, kind = make()
        if (
            self.rng.random() < (0.25 if self.family.degrade == "broad" else 0.1)
            and truth.get("static") is not True
            and truth.get("text") is not True
        ):
            clean = edits.resize(clip, self.size)
            clip, effect, min_crf = self.degraded(clean)
            visible = effect == "shake" or degrade.is_visible(clean, clip, self.fps, max(crf, min_crf))
            hidden = (
                {name: None for name in ("editing", "text", "lecture") if truth.get(name)} if effect == "shake" else {}
            )
            return self.finish(
                clip, truth | hidden | {"low_quality": visible or None}, f"{kind}, {effect}", max(crf, min_crf)
            )
        return self.finish(clip, truth, kind, crf)

    def finish(self, clip: np.ndarray, truth: Truth, kind: str, crf: int) -> Render:
        complete = {name: truth.get(name, False) for name in NAMES}
        return Render(np.ascontiguousarray(clip), self.fps, complete, kind, self.real, crf)
