"""Fine-tuning of a video-language model on annotated clips, and prediction with the fine-tuned model.

A trained filter is a folder: LoRA weights as peft writes them, `labels.safetensors` with the head, and `labels.json`
with the config, the path of the base model and the thresholds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch.nn import functional

from cogvideox import config as configs
from cogvideox.atomic_io import write_text
from cogvideox.curation.labels.classifier import MIN_EXAMPLES
from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS
from cogvideox.curation.pipeline import sample_frames
from cogvideox.curation.signals.base import SampledFrames, Sampling
from cogvideox.errors import UserError
from cogvideox.state_dict.safetensors_io import load_state, save_state
from cogvideox.training.labels.config import VlmLabelsConfig
from cogvideox.training.labels.model import VlmLabels, add_lora, load_network
from cogvideox.untrusted.files import parse_json, read_text, reading

RECORD, HEAD = "labels.json", "labels.safetensors"


@dataclass(frozen=True)
class Step:
    """Training progress: number of the step, from 1, and its loss."""

    number: int
    loss: float


def train(
    base: str | Path,
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Float64[np.ndarray, " n"]],
    output: str | Path,
    config: VlmLabelsConfig | None = None,
    *,
    device: torch.device | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> dict[str, float]:
    """Fine-tune a model, and write the trained filter to a folder.

    Args:
        base: folder of the video-language model.
        rows: clips, with `path`, `start`, `end` and `is_image`.
        truth: ground truth of each label per row: 1, 0, or NaN if it is not known.
        output: folder of the trained filter.

    Returns:
        The decision threshold of each trained label.

    Raises:
        UserError: the model cannot be loaded, no label has enough annotations, or a clip cannot be read.
    """
    config, device = config or VlmLabelsConfig(), device or torch.device("cpu")
    known = np.stack([truth[name] for name in LABELS], axis=1)  # clips, labels
    counts = np.nansum(known, axis=0), np.nansum(1 - known, axis=0)
    learned = [name for name, *per_class in zip(LABELS, *counts) if min(per_class) >= MIN_EXAMPLES]
    if not learned:
        raise UserError(
            f"no label has {MIN_EXAMPLES} annotated clips with it and {MIN_EXAMPLES} without it: annotate more clips"
        )
    torch.manual_seed(config.seed)
    network, processor = load_network(base, device)
    model = VlmLabels(add_lora(network, config), processor, config).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, config.num_steps)
    # Both classes of a label have the same weight in the loss, so a threshold of 0.5 maximizes balanced accuracy.
    thresholds = dict.fromkeys(learned, 0.5)
    class_weights = _class_weights(known, [name in learned for name in LABELS])
    rng = np.random.default_rng(config.seed)
    for number in range(1, config.num_steps + 1):
        names = [learned[int(rng.integers(len(learned)))] for _ in range(config.batch_size)]
        chosen = [_draw(rng, truth[name]) for name in names]
        clips = [read_clip(rows[row], config) for row in chosen]
        if config.answer == "head":
            loss = _head_loss(model, clips, known[chosen], class_weights[chosen])
        else:
            positive = [bool(truth[name][row] > 0.5) for name, row in zip(names, chosen)]
            loss = _chat_loss(model, clips, names, positive)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        scheduler.step()
        if on_step is not None:
            on_step(Step(number, float(loss.detach())))
    _save(model, Path(output), base, thresholds)
    return thresholds


def load(folder: str | Path, device: torch.device | None = None) -> tuple[VlmLabels, dict[str, float]]:
    """Load a trained filter and its thresholds.

    Raises:
        UserError: the folder is not a trained filter, or its base model cannot be loaded.
    """
    folder, device = Path(folder), device or torch.device("cpu")
    path = folder / RECORD
    with reading(path, "not the record of a label filter"):
        record = parse_json(read_text(path))
        config = configs.from_dict(VlmLabelsConfig, record["config"], where=str(path))
        base, thresholds = (
            str(record["base"]),
            {name: float(record["thresholds"][name]) for name in record["thresholds"]},
        )
    network, processor = load_network(base, device)
    from peft import PeftModel

    model = VlmLabels(PeftModel.from_pretrained(network, str(folder)), processor, config)  # pyrefly: ignore
    if model.head is not None:
        model.head.load_state_dict(load_state(folder / HEAD))
    return model.to(device).eval(), thresholds


def predict(
    model: VlmLabels, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return the probability of each label for all rows; NaN for clips that cannot be read."""
    result = {name: np.full(len(rows), np.nan) for name in names}
    for index, row in enumerate(rows):
        try:
            clip = read_clip(row, model.config)
        except UserError:
            continue
        probabilities = model.probabilities(clip)
        for name in names:
            result[name][index] = probabilities[name]
    return result


def read_clip(row: Mapping[str, Any], config: VlmLabelsConfig) -> SampledFrames:
    """Return the sampled frames of a clip. Raises UserError if the clip cannot be read."""
    sampling = Sampling(num_frames=config.num_frames, longest_side=config.longest_side)
    return sample_frames(row, [sampling])[0]


def _draw(rng: np.random.Generator, truth: Float64[np.ndarray, " n"]) -> int:
    """Return a random clip with a known label, positive or negative with equal probability."""
    positive = rng.random() < 0.5
    return int(rng.choice(np.flatnonzero(truth > 0.5 if positive else truth <= 0.5)))


def _class_weights(known: np.ndarray, learned: list[bool]) -> np.ndarray:
    """Return loss weights per clip and label that balance the drawn positive and negative clips of each label.

    Clips whose label is not known have weight 0.
    """
    positive, negative = known > 0.5, known <= 0.5
    chances = positive / np.maximum(positive.sum(0), 1) + negative / np.maximum(negative.sum(0), 1)
    drawn = chances[:, learned].sum(1)
    weights = sum(group * (0.5 * drawn.sum() / np.maximum(drawn @ group, 1e-9)) for group in (positive, negative))
    return weights * np.array(learned)


def _head_loss(model: VlmLabels, clips: list[SampledFrames], truth: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Return the weighted mean binary cross-entropy over clips and labels."""
    logits = model.head_logits(clips)
    targets, scale = (torch.from_numpy(np.nan_to_num(values)).to(logits) for values in (truth, weights))
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * scale).sum() / scale.sum().clamp(min=1e-6)


def _chat_loss(model: VlmLabels, clips: list[SampledFrames], names: list[str], positive: list[bool]) -> torch.Tensor:
    """Return the cross-entropy of the first answer token, over the whole vocabulary."""
    logits = model.chat_logits(clips, names)
    targets = torch.tensor([model.yes if has else model.no for has in positive], device=logits.device)
    return functional.cross_entropy(logits, targets)


def _save(model: VlmLabels, output: Path, base: str | Path, thresholds: Mapping[str, float]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model.network.save_pretrained(str(output))  # pyrefly: ignore
    if model.head is not None:
        save_state(model.head.state_dict(), output / HEAD)
    record = {
        "base": str(Path(base).absolute()),
        "config": configs.to_dict(model.config),
        "thresholds": dict(thresholds),
        "definitions": DEFINITIONS_VERSION,
    }
    write_text(output / RECORD, json.dumps(record, indent=2) + "\n")
