"""Initialization of the transformer's weights, and extra input channels for image-to-video."""

from dataclasses import replace

import torch
from torch import nn

from cogvideox.transformer.model import Transformer


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Initialize the weights as adaLN-Zero (Peebles and Xie 2022, section 3.2): blocks are identities, the output is 0.

    | part                           | weight                                          | bias |
    |--------------------------------|-------------------------------------------------|------|
    | modulations, last projection   | 0                                               | 0    |
    | queries, keys, values          | Xavier-uniform, each as a separate matrix       | 0    |
    | other matrices                 | Xavier-uniform                                  | 0    |
    | norms                          | 1                                               | 0    |
    | learned positions              | 0                                               |      |
    """
    for name, module in model.named_modules():
        match module:
            case nn.Linear() if name.endswith(("modulation", "final.linear")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            case nn.Linear():
                for matrix in module.weight.chunk(3 if name.endswith("qkv") else 1):
                    nn.init.xavier_uniform_(matrix, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
    if model.config.use_learned_positional_embeddings:
        nn.init.zeros_(model.learned_positions)


@torch.no_grad()
def add_image_channels(model: Transformer) -> Transformer:
    """Turn a text-to-video model into an image-to-video model, for fine-tuning (paper, appendix D).

    The patch projection has zero weights for the image channels, so predictions do not change before training. All
    other weights are shared with the original model.
    """
    with torch.device("meta"):
        image_model = Transformer(replace(model.config, in_channels=2 * model.config.out_channels))
    state, weight = model.state_dict(keep_vars=True), model.patch_in.weight
    state["patch_in.weight"] = torch.nn.Parameter(torch.cat((weight, torch.zeros_like(weight)), dim=1))
    image_model.load_state_dict(state, assign=True)
    return image_model
