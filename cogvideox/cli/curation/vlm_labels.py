"""Label prediction by video-language models, for `cogvideox labels train` and `cogvideox labels predict`."""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FILTER = "labels-vlm"
"""Name of the folder of a trained filter in a curation's output folder."""

ANSWERS = "label-answers.db"
"""File name of the cached endpoint responses in a curation's output folder."""

_PRINT_STEPS = 20


def train_vlm(options: Namespace, table: "pa.Table", truth: Mapping[str, Any]) -> None:
    """Fine-tune a video-language model on the annotated clips."""
    from dataclasses import replace

    from cogvideox import config
    from cogvideox.device import choose_device
    from cogvideox.training.labels.config import VlmLabelsConfig
    from cogvideox.training.labels.trainer import Step, train

    settings = dict(_setting(text) for text in options.set)
    chosen = config.override(replace(VlmLabelsConfig(), answer=options.answer, seed=options.seed), settings)

    def print_step(step: Step) -> None:
        if step.number % _PRINT_STEPS == 0 or step.number == chosen.num_steps:
            print(f"step {step.number} of {chosen.num_steps}, loss {step.loss:.4f}", file=sys.stderr, flush=True)

    folder = options.model or options.output / FILTER
    rows = _rows(table, options.raw)
    thresholds = train(options.vlm, rows, truth, folder, chosen, device=choose_device("auto"), on_step=print_step)
    print(f"{folder}: a filter for {', '.join(thresholds)}")


def predict_vlm(options: Namespace, table: "pa.Table", output: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the label probabilities of the clips, and the decision threshold per label."""
    from cogvideox.curation.labels.definitions import LABELS
    from cogvideox.device import choose_device

    if options.vlm is not None and options.endpoint is not None:
        raise UserError("--vlm and --endpoint cannot be combined: remove one of them")
    rows = _rows(table, options.raw)
    if options.vlm is not None:
        from cogvideox.training.labels.trainer import load, predict

        model, thresholds = load(options.vlm, choose_device("auto"))
        return predict(model, rows, list(thresholds)), thresholds
    if not options.endpoint_model:
        raise UserError("--endpoint needs --endpoint-model, the name of the model at the endpoint")

    from cogvideox.llm.cache import ResponseCache
    from cogvideox.llm.endpoint import Endpoint
    from cogvideox.llm.limits import Account, Budget
    from cogvideox.llm.models import ModelConfig
    from cogvideox.training.labels.zero_shot import THRESHOLD, ask_labels

    endpoint = Endpoint(options.endpoint, options.endpoint_model, key_variable=options.key_variable)
    cache = ResponseCache(output / ANSWERS)
    client = ModelConfig(endpoint=endpoint).client(cache, Account(Budget(cost=options.max_cost), cache.spent()))
    result = ask_labels(client, rows)
    for reason, number in result.failures.items():
        print(f"{number} clips have no labels: {reason}", file=sys.stderr)
    return result.probabilities, dict.fromkeys(LABELS, THRESHOLD)


def _rows(table: "pa.Table", raw: Path | None) -> list[dict[str, Any]]:
    """Return the rows of the manifest, with the path of each row's raw file."""
    if raw is None:
        raise UserError("video-language models read the clips: add --raw RAW, the folder of the raw files")
    if not raw.is_dir():
        raise UserError(f"{raw} is not a folder: --raw is the folder of the raw files")
    names = ("id", "source", "start", "end", "is_image")
    rows = [dict(zip(names, values)) for values in zip(*(table[name].to_pylist() for name in names))]
    return [
        row | {"path": str(raw / row["source"]), "start": row["start"] or 0.0, "end": row["end"] or 0.0} for row in rows
    ]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is not a setting: write name=value, such as num_steps=500")
    return name, value
