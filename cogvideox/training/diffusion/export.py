"""Export of a finished diffusion run: a model folder, or a LoRA file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from cogvideox import config
from cogvideox.dataset.loader import PackedLoader
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_folder import save_with_transformer
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.validation import on_first_rank
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import write_lora
from cogvideox.transformer.lora.layers import Factors
from cogvideox.transformer.model import Transformer

LORA_FILE = "pytorch_lora_weights.safetensors"

State = dict[str, torch.Tensor]


def finish(
    model: Transformer,
    spec: ModelSpec,
    settings: DiffusionTraining,
    out: Path,
    loader: PackedLoader,
    ranks: Ranks | None = None,
) -> Path:
    """Writes the model folder, whose other parts are those of the model that the stage began with; or the LoRA's file.

    Raises UserError when the disk refuses.
    """
    if settings.lora is not None:
        found = inject.extract_lora(model)
        layers = {name: Factors(_whole(of.down), _whole(of.up), of.alpha) for name, of in found.layers.items()}
        learned = replace(found, layers=layers, base_model=spec.name, trigger=settings.lora.trigger)
        target = out / LORA_FILE
        on_first_rank(ranks, lambda: write_lora(learned, target))
        return target
    state: State = {}
    for name, tensor in model.state_dict().items():
        whole = _whole(tensor)  # which all ranks bring together, and one keeps
        if ranks is None or ranks.rank == 0:
            state[name] = whole.cpu()
    on_first_rank(ranks, lambda: _write(state, model, spec, settings, out, loader))
    return out / "model"


def _write(
    state: State, model: Transformer, spec: ModelSpec, settings: DiffusionTraining, out: Path, seen: PackedLoader
) -> None:
    dtype, said = getattr(torch, settings.stored_as), _said(spec, settings, seen)
    save_with_transformer(spec, out / "model", state, model.config, said, dtype=dtype)


def _said(spec: ModelSpec, settings: DiffusionTraining, loader: PackedLoader) -> ModelSettings:
    """What the new folder says about its use: what it was trained on since, where that is more than before."""
    columns = [store.columns for store in loader.stores.values()]
    frames, heights, widths = (
        np.concatenate([np.asarray(of[name]) for of in columns]) for name in ("num_frames", "height", "width")
    )
    before = spec.settings.trained
    fresh = settings.transformer is not None

    def span(now: np.ndarray, then: tuple[int, int]) -> tuple[int, int]:
        least, most = int(now.min()), int(now.max())
        return (least, most) if fresh else (min(least, then[0]), max(most, then[1]))

    trained = TrainedRange(
        num_frames=span(frames, before.num_frames),
        frame_step=4,
        height=span(heights, before.height),
        width=span(widths, before.width),
    )
    seen = sum(loader.state.seen.values())
    provenance = {
        **spec.settings.provenance,
        "trained_from": "nothing" if fresh else spec.name,
        "num_samples_seen": str(seen),
        "settings": config.digest(settings, "StageTraining"),
    }
    return replace(spec.settings, trained=trained, provenance=provenance)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
