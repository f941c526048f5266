"""The networks of a model, built without memory, and what the libraries' files call their tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from cogvideox.text import weights as text_weights
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import T5Encoder
from cogvideox.transformer import weights as transformer_weights
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae import weights as vae_weights
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE
from cogvideox.weights.keymap import Rule

Config = TransformerConfig | VAEConfig | T5Config
Network = Transformer | CausalVAE | T5Encoder


def build(config: Config) -> Network:
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


def keymap_of(config: Config) -> list[Rule]:
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
