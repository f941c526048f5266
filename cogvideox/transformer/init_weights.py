"""Initialization of the transformer's weights, and extra input channels for image-to-video."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
def whiten_text_projection(
    model: Transformer, embeddings: Float[Tensor, "n d"], generator: torch.Generator, *, shrinkage: float = 0.005
) -> None:
    """Initialize the text projection so that its outputs have mean 0 and equal variances in all directions.

    A text encoder trained by span corruption embeds words that occur in the same contexts, such as "large" and "small",
    almost equally. With random weights, the transformer learns such words late or never.

    Args:
        embeddings: embeddings of tokens of captions, padding included.
        shrinkage: added to the variance of each direction, as a fraction of the mean variance. Directions with less
            variance are noise.
    """
    embeddings = embeddings.double()
    mean = embeddings.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(embeddings.T))
    variances = variances.clamp(min=0) + shrinkage * variances.mean()
    # Orthonormal columns, or rows if the model is narrower than the embeddings.
    rotation = nn.init.orthogonal_(torch.empty(model.text_in.weight.shape, dtype=torch.float64), generator=generator)
    weight = rotation @ (directions / variances.sqrt()).T
    model.text_in.weight.copy_(weight)
    model.text_in.bias.copy_(-weight @ mean)


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
