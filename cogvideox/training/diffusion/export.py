"""Export the result of a diffusion run: a model folder or a LoRA file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from cogvideox import config
from cogvideox.dataset.packed_loader import PackedLoader
from cogvideox.pretrained.model_folder import save_with_transformer
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.run import TrainingRun
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.io import write_lora
from cogvideox.transformer.lora.layers import Factors
from cogvideox.transformer.model import Transformer

LORA_FILE = "pytorch_lora_weights.safetensors"


def export(
    model: Transformer, spec: ModelSpec, settings: DiffusionTraining, run: TrainingRun, loader: PackedLoader
) -> Path:
    """Write the trained LoRA as a file, or the trained transformer in a copy of the model folder `spec`.

    Called by all ranks.

    Raises:
        UserError: the disk is full or not writable.
    """
    if settings.lora is not None:
        lora = inject.extract_lora(model)
        layers = {
            name: Factors(_full_tensor(factors.down), _full_tensor(factors.up), factors.alpha)
            for name, factors in lora.layers.items()
        }
        lora = replace(lora, layers=layers, base_model=spec.name, trigger=settings.lora.trigger)
        run.on_rank_zero(lambda: write_lora(lora, run.out / LORA_FILE))
        return run.out / LORA_FILE
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = _full_tensor(tensor)  # gathered on every rank, kept on rank 0
        if run.is_main:
            state[name] = full.cpu()
    target, dtype = run.out / "model", getattr(torch, settings.export_dtype)
    new_settings = _model_settings(spec, settings, loader)
    run.on_rank_zero(lambda: save_with_transformer(spec, target, state, model.config, new_settings, dtype=dtype))
    return target


def _model_settings(spec: ModelSpec, settings: DiffusionTraining, loader: PackedLoader) -> ModelSettings:
    """Return the settings of the base model with the trained range extended by this run, and its provenance."""
    columns = [store.columns for store in loader.stores.values()]
    frames, heights, widths = (
        np.concatenate([np.asarray(column[name]) for column in columns]) for name in ("num_frames", "height", "width")
    )
    base = spec.settings.trained
    from_scratch = settings.transformer is not None

    def extend(values: np.ndarray, base_range: tuple[int, int]) -> tuple[int, int]:
        low, high = int(values.min()), int(values.max())
        return (low, high) if from_scratch else (min(low, base_range[0]), max(high, base_range[1]))

    trained = TrainedRange(
        num_frames=extend(frames, base.num_frames),
        frame_step=4,
        height=extend(heights, base.height),
        width=extend(widths, base.width),
    )
    provenance = {
        **spec.settings.provenance,
        "trained_from": "nothing" if from_scratch else spec.name,
        "num_samples_seen": str(sum(loader.state.seen.values())),
        "settings": config.digest(settings, "StageTraining"),
    }
    null_text, norm_statistics = settings.null_text, settings.norm_statistics
    assert null_text is not None  # the config is resolved
    assert norm_statistics is not None
    changed = from_scratch or null_text != (spec.settings.training_null_text or spec.settings.null_text)
    return replace(
        spec.settings,
        null_text=null_text if changed else spec.settings.null_text,
        training_null_text=null_text,
        norm_statistics=norm_statistics,
        trained=trained,
        provenance=provenance,
    )


def _full_tensor(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
