"""Functions that load the models of `evaluation.plugins`, and adapt them to `interfaces`.

Axes: t frames, h w height and width in pixels.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8

from cogvideox.errors import UserError
from cogvideox.evaluation.models.interfaces import (
    ActionClassifier,
    Captioner,
    Embedder,
    FlowEstimator,
    ImageText,
    ObjectDetector,
)
from cogvideox.untrusted.files import parse_json, read_bytes, read_text
from cogvideox.video.official_tools import resize_opencv

Frames = UInt8[np.ndarray, "t h w 3"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT_SIDE, CROP = 256, 224
"""Size of frames for UMT before and after the crop."""
BATCH = 16
NUM_TAGS = 5
MIN_OBJECT_SCORE = 0.35


def umt_actions(file: Path, categories: Path) -> ActionClassifier:
    """Load UMT; the list has a line "name TAB number" for each class."""
    from cogvideox.evaluation.models.umt import NUM_FRAMES, load_umt

    network, names = load_umt(file), read_categories(categories)
    if len(names) != network.head.out_features:
        raise UserError(f"{categories} has {len(names)} classes, and the weights have {network.head.out_features}")

    @torch.inference_mode()
    def classify(frames: Frames, action: str) -> dict[str, float]:
        if len(frames) != NUM_FRAMES:
            raise ValueError(f"UMT needs {NUM_FRAMES} frames, got {len(frames)}")
        probabilities = torch.sigmoid(network(prepare_actions(frames)[None]))[0]
        return {name: float(value) for name, value in zip(names, probabilities)}

    return classify


def read_categories(path: Path) -> list[str]:
    """Read the classes of Kinetics-400, lower-case, by number.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    try:
        rows = [line.rsplit("\t", 1) for line in read_text(path).splitlines() if line.strip()]
        names = {int(number): name.strip().lower() for name, number in rows}
        return [names[index] for index in range(len(names))]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path} is not a list of lines NAME<tab>NUMBER with the classes of Kinetics-400") from None


def prepare_actions(frames: Frames) -> Float[torch.Tensor, "3 t h w"]:
    """Resize the shorter side to 256 pixels (OpenCV, linear), crop the center, and normalize."""
    height, width = frames.shape[1:3]
    if min(height, width) != SHORT_SIDE:
        scaled = int(SHORT_SIDE * max(height, width) / min(height, width))
        size = (scaled, SHORT_SIDE) if width < height else (SHORT_SIDE, scaled)
        frames = np.stack([resize_opencv(frame, *size, "linear") for frame in frames])
    top, left = (round((side - CROP) / 2) for side in frames.shape[1:3])
    pixels = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + CROP, left : left + CROP])).float() / 255
    return ((pixels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(3, 0, 1, 2)


def raft_flow(file: Path) -> FlowEstimator:
    """Load RAFT. Flows are those of padded frames, as VBench measures them."""
    from cogvideox.evaluation.models.raft import MIN_SIDE, load_raft, pad_images

    network = load_raft(file)

    def estimate(frames: Shaped[np.ndarray, "t h w 3"]) -> Iterator[Float[np.ndarray, "h w 2"]]:
        images = pad_images(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
        if min(images.shape[-2:]) < MIN_SIDE:
            raise UserError(f"RAFT needs a height and width of at least {MIN_SIDE} pixels")
        for first, second in pairwise(images):
            with torch.inference_mode():
                yield network(first[None], second[None])[0].permute(1, 2, 0).numpy()

    return estimate


def dis_flow() -> FlowEstimator:
    """Return OpenCV's DIS flow, a variant without weights."""
    from cogvideox.video.flow import optical_flow

    return optical_flow


def clip_similarity(file: Path, merges: Path) -> ImageText:
    """Load CLIP and its tokenizer; similarities are logits / 100, as VBench reports them."""
    return _clip(file, merges, truncate=False)


def clip_text_similarity(file: Path, merges: Path) -> ImageText:
    """Load CLIP and its tokenizer; strings are truncated to the number of tokens that CLIP reads."""
    return _clip(file, merges, truncate=True)


def _clip(file: Path, merges: Path, *, truncate: bool) -> ImageText:
    from cogvideox.evaluation.models.clip import load_clip, prepare
    from cogvideox.evaluation.models.clip_tokenizer import CLIPTokenizer

    network, tokenizer = load_clip(file), CLIPTokenizer.load(merges)

    @torch.inference_mode()
    def compare(frames: Frames, text: str) -> Float[np.ndarray, " t"]:
        tokens = tokenizer([text], network.num_tokens, truncate=truncate)
        batches = [prepare(frames[start : start + BATCH], network.side) for start in range(0, len(frames), BATCH)]
        return torch.cat([network.similarity(images, tokens)[:, 0] for images in batches]).numpy() / 100

    return compare


def clip_embeddings(file: Path) -> Embedder:
    """Load CLIP's image encoder."""
    from cogvideox.evaluation.models.clip import load_clip, prepare

    network = load_clip(file)

    @torch.inference_mode()
    def embed(frames: Frames) -> Float[np.ndarray, "t d"]:
        starts = range(0, len(frames), BATCH)
        batches = [prepare(frames[start : start + BATCH], network.side) for start in starts]
        return torch.cat([network.encode_images(images) for images in batches]).numpy()

    return embed


def dino_embeddings(file: Path) -> Embedder:
    """Load DINO. The shorter side of frames is resized to 224 pixels, and they are not cropped, as in VBench."""
    return _dino(file, keep_aspect=True)


def dino_square(file: Path) -> Embedder:
    """Load DINO. Frames are stretched to 224x224 pixels, as in DEVIL."""
    return _dino(file, keep_aspect=False)


def _dino(file: Path, *, keep_aspect: bool) -> Embedder:
    import torch.nn.functional as F

    from cogvideox.evaluation.models.dino import load_dino

    network = load_dino(file)

    @torch.inference_mode()
    def embed(frames: Frames) -> Float[np.ndarray, "t d"]:
        height, width = frames.shape[1:3]
        scaled = int(CROP * max(height, width) / min(height, width)) if keep_aspect else CROP
        size = (scaled, CROP) if width < height else (CROP, scaled)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        outputs = []
        for start in range(0, len(frames), BATCH):
            pixels = torch.from_numpy(frames[start : start + BATCH]).permute(0, 3, 1, 2).float()
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=not keep_aspect)
            outputs.append(F.normalize(network((pixels / 255 - mean) / std), dim=-1))
        return torch.cat(outputs).numpy()

    return embed


def efficientnet_tags(file: Path, names: Path) -> Captioner:
    """Load EfficientNet-Lite0, which describes a frame by its five most probable ImageNet classes."""
    from cogvideox.curation.signals.models.efficientnet_lite import load, prepare

    network, classes = load(str(file)), parse_json(read_bytes(names))
    if not (isinstance(classes, list) and len(classes) == 1000):
        raise UserError(f"{names} is not a list of 1000 names")

    @torch.inference_mode()
    def describe(frames: Frames) -> list[str]:
        _, logits = network(prepare(torch.from_numpy(frames)))
        return [", ".join(str(classes[i]).lower() for i in best) for best in logits.topk(NUM_TAGS).indices.tolist()]

    return describe


def centernet_objects(graph: Path, weights: Path) -> ObjectDetector:
    """Load the small CenterNet, which detects the 80 classes of COCO."""
    from cogvideox.curation.signals.models.objects import KINDS, count_objects, load_detector

    detect = load_detector(graph, weights)

    def find_objects(frames: Frames) -> list[set[str]]:
        counts = [count_objects(*detect(frame), MIN_OBJECT_SCORE) for frame in frames]
        return [{KINDS[index] for index in np.flatnonzero(count)} for count in counts]

    return find_objects
