"""The networks of a model, built without memory, and what the libraries' files call their tensors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from cogvideox.atomic_io import write_text
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, ModelSpec, read_json, weights_file
from cogvideox.state_dict.export import save_external
from cogvideox.state_dict.keymap import Rule
from cogvideox.state_dict.lazy import meta_tensors
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text import weights as text_weights
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.transformer import weights as transformer_weights
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae import weights as vae_weights
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE
from cogvideox.vae.weights import KEYMAP

NetworkConfig = TransformerConfig | VAEConfig | T5Config
Network = Transformer | CausalVAE | T5Encoder


def build_network(config: NetworkConfig) -> Network:
    """The network of a configuration on the meta device, in evaluation mode: it takes no memory and holds no values."""
    with torch.device("meta"), _WithoutFirstWeights():
        match config:
            case TransformerConfig():
                network: Network = Transformer(config)
            case VAEConfig():
                network = CausalVAE(config)
            case T5Config():
                network = T5Encoder(config)
    return network.eval()


def diffusers_keymap(config: NetworkConfig) -> list[Rule]:
    """What diffusers and transformers call the tensors of that network, and what they are called here."""
    match config:
        case TransformerConfig():
            return transformer_weights.keymap(config)
        case VAEConfig():
            return vae_weights.KEYMAP
        case T5Config():
            return text_weights.KEYMAP


class _WithoutFirstWeights(TorchFunctionMode):
    """Skips `torch.nn.init`: to draw weights that have no memory, torch would import its compiler for a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_text_encoder(spec: ModelSpec, *, device: torch.device | str, dtype: torch.dtype) -> T5Encoder:
    """The T5 encoder, in evaluation mode and without gradients. Raises UserError as `folder.load` does."""
    encoder, file = build_network(spec.text), weights_file(spec.path, "text_encoder")
    assert isinstance(encoder, T5Encoder)
    state = text_weights.merge_shared_embedding(open_weights(file))
    load_strict(encoder, state, where=str(file), rules=diffusers_keymap(spec.text), dtype=dtype, device=device)
    return encoder.requires_grad_(False)


def save_vae(vae: CausalVAE, folder: str | Path, *, scaling_factor: float | None = None) -> None:
    """Writes `folder/vae/`, with another scaling factor in its config if one is given.

    Raises UserError when the disk refuses.
    """
    part = Path(folder) / "vae"
    config = vae.config if scaling_factor is None else replace(vae.config, scaling_factor=scaling_factor)
    write_text(part / "config.json", json.dumps(config.to_diffusers(), indent=2) + "\n")
    state = vae.state_dict()
    save_external(meta_tensors(state), state.items(), part / f"{WEIGHT_STEMS['vae']}.safetensors", rules=KEYMAP)


def load_vae(folder: str | Path) -> CausalVAE:
    """Reads `folder/vae/`: of a VAE run or of a whole model. In evaluation mode, without gradients.

    Raises UserError when a file is missing, damaged or does not fit.
    """
    folder = Path(folder)
    vae = build_network(VAEConfig.from_diffusers(read_json(folder / "vae" / "config.json")))
    assert isinstance(vae, CausalVAE)
    file = weights_file(folder, "vae")
    load_strict(vae, open_weights(file), where=str(file), rules=KEYMAP, dtype=torch.float32)
    return vae.requires_grad_(False)
