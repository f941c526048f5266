"""What training and test clips with known labels are made from: fonts, styles, footage, photographs."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.toybox.effects import scenes
from cogvideox.toybox.effects.scenes import ColorScheme
from cogvideox.toybox.effects.text import TextStyle

VARIED_VIDEOS = (
    # still cameras
    "vtest.avi",
    "tree.avi",
    "box.mp4",
    "cup.mp4",
    "bottle-detection.mp4",
    "one-by-one-person-detection.mp4",
    "bolt-multi-size-detection.gif",
    "car-detection.gif",
    "classroom.gif",
    "face-demographics-walking-and-pause.gif",
    "face-demographics-walking.gif",
    "fruit-and-vegetable-detection.gif",
    "people-detection.gif",
    "person-bicycle-car-detection.gif",
    "store-aisle-detection.gif",
    "worker-zone-detection.gif",
    "test-sample4.mp4",
    # moving cameras
    "black-swan.mp4",
    "boxer-punching-towards-camera.mp4",
    "car-turn.mp4",
    "cockatoo.mp4",
    "dog.mp4",
    "dog-walking.mp4",
    "horse-running.mp4",
    "rabbit-watermelon.mp4",
    "test-sample2.mp4",
)
"""Footage of the family "varied"."""


@dataclass(frozen=True)
class Family:
    """What the clips of one side are made from.

    Attributes:
        videos, photos: real footage and photographs, by path.
        portraits: photographs with a face: path, x and y of its center, and its height, in pixels.
        talking: real footage of people who talk.
        kinds: probability of clean, edited, static, degraded, lecture, text and screenshot clips.
        real: fraction of the clips without defects that are real footage.
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
    kinds: tuple[float, ...] = (0.17, 0.19, 0.15, 0.14, 0.13, 0.11, 0.11)
    real: float = 0.6


def fonts(pattern: str) -> list[str | None]:
    """Return the installed TrueType fonts that match; Pillow's own font if there are none."""
    return [str(path) for path in sorted(Path("/usr/share/fonts/truetype").glob(pattern))] or [None]


def matplotlib_fonts(*names: str) -> list[str | None]:
    """Return fonts that matplotlib ships."""
    import matplotlib as mpl

    return [str(Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf")) for name in names]


def find_portraits(folder: Path, names: list[str]) -> list[tuple[Path, tuple[int, int, int]]]:
    """Return the frontal faces in photographs. See `Family.portraits`."""
    import cv2
    from cv2 import data

    cv2.setNumThreads(1)  # with several threads, the order of the faces depends on which thread is faster
    cascade = cv2.CascadeClassifier(data.haarcascades + "haarcascade_frontalface_default.xml")
    portraits = []
    for name in names:
        if (folder / name).is_file():
            gray = np.asarray(Image.open(folder / name).convert("L"))
            side = min(gray.shape) // 10
            for x, y, width, height in sorted(
                map(tuple, cascade.detectMultiScale(gray, 1.05, 8, minSize=(side, side)))
            ):
                portraits.append((folder / name, (int(x + width // 2), int(y + height // 2), int(height))))
    return portraits


def families(footage: Path) -> dict[str, Family]:
    """Return the families. `footage` holds the videos and photographs, see the docs of the benchmark.

    "train", "wide", "varied" and "broad" are for training. "wide" has other footage and degradations, and recordings
    of people who talk; "varied" has more footage, most of it by still cameras, more kinds of degradation, and test
    cards; "broad" has the footage of both, more stills and lectures, and titles over drawn scenes.
    "test" and "fresh" were evaluated repeatedly while the signals and the training families were chosen. They share no
    footage, photographs, fonts, colors or degradations with the training families, except for shaking.
    """

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
    wide = replace(
        train,
        videos=listed(
            *(f"{name}.mp4" for name in ("apple", "backpack", "bear", "cat", "paragliding-launch", "pillow"))
        ),
        talking=listed("face1.mp4", "face3.mp4", "face5.mp4"),
        degrade="wide",
        kinds=(0.32, 0.24, 0.03, 0.2, 0.17, 0.02, 0.02),
    )
    varied = replace(
        train,
        fonts=[*train.fonts, *matplotlib_fonts("cmr10", "cmb10", "cmtt10")],
        styles=[
            *train.styles,
            TextStyle(color=(255, 60, 50), outline=(255, 255, 255)),
            TextStyle(color=(20, 30, 90), outline=None, box=(250, 220, 120)),
            TextStyle(color=(255, 255, 255), outline=None, opacity=0.85),
        ],
        videos=listed(*VARIED_VIDEOS),
        photos=[*train.photos, *listed("chelsea.png", "coffee.png", "bricks.jpg", "wood.jpg", "meadow_cube.jpg")],
        degrade="varied",
        kinds=(0.36, 0.25, 0.06, 0.24, 0.03, 0.03, 0.03),
        real=0.9,
    )
    broad = replace(
        varied,
        videos=[*wide.videos, *varied.videos],
        talking=wide.talking,
        degrade="broad",
        kinds=(0.24, 0.13, 0.2, 0.17, 0.14, 0.1, 0.02),
    )
    fresh = replace(
        test,
        fonts=matplotlib_fonts("cmss10", "STIXGeneral", "STIXGeneralBol"),
        styles=[
            TextStyle(color=(255, 120, 200), outline=(50, 0, 30)),
            TextStyle(color=(250, 250, 250), outline=None, box=(20, 90, 160)),
            TextStyle(color=(40, 40, 40), outline=(255, 255, 255)),
        ],
        schemes=[
            ColorScheme((250, 245, 250), (70, 20, 90), (20, 130, 200)),
            ColorScheme((10, 45, 50), (220, 240, 230), (240, 170, 60)),
        ],
        videos=listed(
            "01_dog.mp4", "02_cups.mp4", "03_blocks.mp4", "04_coffee.mp4", "05_default_juggle.mp4", "bedroom.mp4"
        ),
        photos=listed("cars.jpg", "groceries.jpg", "truck.jpg", "teddy.jpg", "paragliding.jpg"),
        portraits=find_portraits(footage, ["obama.jpg", "biden.jpg", "lacamoire.jpg", "miranda.png"]),
        talking=listed("face2.mp4", "face4.mp4"),
        degrade="fresh",
    )
    return {"train": train, "wide": wide, "varied": varied, "broad": broad, "test": test, "fresh": fresh}
