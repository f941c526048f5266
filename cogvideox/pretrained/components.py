"""Networks of a model: creation on the meta device, loading and saving in the diffusers layout."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cogvideox.atomic_io import write_text
from cogvideox.pretrained.model_spec import (
    WEIGHT_STEMS,
    ComponentName,
    NetworkConfig,
    component_config,
    read_json,
    weights_file,
)
from cogvideox.state_dict.export import save_external
from cogvideox.state_dict.key_rules import Rule
from cogvideox.state_dict.lazy import LazyStateDict, meta_tensors
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.text import checkpoint_keys as text_keys
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.transformer import checkpoint_keys as transformer_keys
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae import checkpoint_keys as vae_keys
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference.sliced import use_channels_last_weights
from cogvideox.vae.model import CausalVAE

Network = Transformer | CausalVAE | T5Encoder
Device = torch.device | str


@overload
def build_network(config: TransformerConfig) -> Transformer: ...
@overload
def build_network(config: VAEConfig) -> CausalVAE: ...
@overload
def build_network(config: T5Config) -> T5Encoder: ...
@overload
def build_network(config: NetworkConfig) -> Network: ...
def build_network(config: NetworkConfig) -> Network:
    """Build the network described by a config on the meta device, in evaluation mode."""
    with torch.device("meta"), _SkipInit():
        match config:
            case TransformerConfig():
                network: Network = Transformer(config)
            case VAEConfig():
                network = CausalVAE(config)
            case T5Config():
                network = T5Encoder(config)
    return network.eval()


class _SkipInit(TorchFunctionMode):
    """Skip `torch.nn.init`, which imports the compiler on the meta device and takes a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def component_name(config: NetworkConfig) -> ComponentName:
    """Return the name of the component that a config belongs to."""
    match config:
        case TransformerConfig():
            return "transformer"
        case VAEConfig():
            return "vae"
        case T5Config():
            return "text_encoder"


def diffusers_keymap(config: NetworkConfig) -> list[Rule]:
    """Return the rules between the names of diffusers (transformers for the text encoder) and those of this package."""
    match config:
        case TransformerConfig():
            return transformer_keys.diffusers_keymap(config)
        case VAEConfig():
            return vae_keys.DIFFUSERS_KEYMAP
        case T5Config():
            return text_keys.TRANSFORMERS_KEYMAP


def open_component(folder: Path, component: ComponentName) -> tuple[LazyStateDict, Path]:
    """Open the weights in a component's folder without reading values.

    Returns:
        The state dict with diffusers' names, and its file.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = weights_file(folder, component)
    state = open_weights(file)
    return (text_keys.merge_shared_embedding(state) if component == "text_encoder" else state), file


@overload
def load_network(
    folder: str | Path, config: TransformerConfig, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer: ...
@overload
def load_network(
    folder: str | Path, config: VAEConfig, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> CausalVAE: ...
@overload
def load_network(
    folder: str | Path, config: T5Config, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> T5Encoder: ...
@overload
def load_network(
    folder: str | Path, config: NetworkConfig, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> Network: ...
def load_network(
    folder: str | Path, config: NetworkConfig, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> Network:
    """Load the network described by a config from a model folder, in evaluation mode and without gradients.

    Raises:
        UserError: the weights are missing, damaged, or do not match the config.
    """
    network, component = build_network(config), component_name(config)
    state, file = open_component(Path(folder) / component, component)
    load_strict(network, state, where=str(file), rules=diffusers_keymap(config), dtype=dtype, device=device)
    if isinstance(network, CausalVAE) and torch.device(device).type == "cpu":
        use_channels_last_weights(network)
    return network.requires_grad_(False)


def load_vae(folder: str | Path) -> CausalVAE:
    """Load the VAE from `folder/vae/`, where `folder` is a model folder or a VAE training run (see `load_network`)."""
    return load_network(folder, VAEConfig.from_diffusers(read_json(Path(folder) / "vae" / "config.json")))


def save_network(
    state: Mapping[str, Tensor],
    config: NetworkConfig,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int | None = 5 * 10**9,
) -> None:
    """Write the config and the state dict of a network to its subfolder of a model folder.

    Args:
        dtype: dtype of the weights; None keeps the dtype of each tensor.
        max_shard_bytes: maximum size of a file, above which weights are split into shards; None for a single file.

    Raises:
        UserError: a file cannot be written.
    """
    component = component_name(config)
    write_text(Path(folder) / component / "config.json", json.dumps(component_config(config), indent=2) + "\n")
    save_external(
        meta_tensors(state),
        state.items(),
        Path(folder) / component / f"{WEIGHT_STEMS[component]}.safetensors",
        rules=diffusers_keymap(config),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
    )


def save_vae(vae: CausalVAE, folder: str | Path, *, scaling_factor: float | None = None) -> None:
    """Write the VAE to `folder/vae/`, with a different scaling factor if one is given (see `save_network`)."""
    config = vae.config if scaling_factor is None else replace(vae.config, scaling_factor=scaling_factor)
    save_network(vae.state_dict(), config, folder)
