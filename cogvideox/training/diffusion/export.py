"""Export of a finished diffusion run: a model folder, or a LoRA file."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from cogvideox import config
from cogvideox.dataset.loader import Loader
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.components import diffusers_keymap
from cogvideox.pretrained.conversion import convert
from cogvideox.pretrained.conversion.detect import CONFIG_KEY
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import ModelSpec, component_config
from cogvideox.state_dict.export import save_external
from cogvideox.state_dict.lazy import meta_tensors
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
    loader: Loader,
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
    state: State, model: Transformer, spec: ModelSpec, settings: DiffusionTraining, out: Path, seen: Loader
) -> None:
    dtype, rules = getattr(torch, settings.stored_as), diffusers_keymap(model.config)
    with TemporaryDirectory(dir=out) as folder:
        file = Path(folder) / "transformer.safetensors"
        metadata = {CONFIG_KEY: json.dumps(component_config(model.config))}
        save_external(meta_tensors(state), state.items(), file, rules=rules, dtype=dtype, metadata=metadata)
        plan, learned = convert.plan_conversion(spec.path), convert.plan_conversion(file).pieces
        said = config.to_dict(_said(spec, settings, seen))
        replace(plan, pieces={**plan.pieces, **learned}, settings=said).write_folder(out / "model")


def _said(spec: ModelSpec, settings: DiffusionTraining, loader: Loader) -> ModelSettings:
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
