"""A VAE alone on disk, as `vae/` of a diffusers folder: what a VAE run leaves and a transformer run begins with."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from cogvideox.bundle.layout import WEIGHTS, read_json, weights_file
from cogvideox.bundle.networks import build
from cogvideox.disk import write_text
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.weights import KEYMAP
from cogvideox.weights.outward import save_as_theirs
from cogvideox.weights.pickles import open_weights
from cogvideox.weights.stored import shapes
from cogvideox.weights.strict import load_strict


def save_vae(vae: CausalVAE, folder: str | Path, *, scaling_factor: float | None = None) -> None:
    """Writes `folder/vae/`, with another scaling factor in its config if one is given.

    Raises UserError when the disk refuses.
    """
    part = Path(folder) / "vae"
    config = vae.config if scaling_factor is None else replace(vae.config, scaling_factor=scaling_factor)
    write_text(part / "config.json", json.dumps(config.to_diffusers(), indent=2) + "\n")
    state = vae.state_dict()
    save_as_theirs(shapes(state), state.items(), part / f"{WEIGHTS['vae']}.safetensors", rules=KEYMAP)


def load_vae(folder: str | Path) -> CausalVAE:
    """Reads `folder/vae/`: of a VAE run or of a whole model. In evaluation mode, without gradients.

    Raises UserError when a file is missing, damaged or does not fit.
    """
    folder = Path(folder)
    vae = build(VAEConfig.from_diffusers(read_json(folder / "vae" / "config.json")))
    assert isinstance(vae, CausalVAE)
    file = weights_file(folder, "vae")
    load_strict(vae, open_weights(file), where=str(file), rules=KEYMAP, dtype=torch.float32)
    return vae.requires_grad_(False)
