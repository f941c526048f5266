"""The text encoder of a model folder alone: captions are encoded before the transformer is there."""

import torch

from cogvideox.bundle.layout import Description, weights_file
from cogvideox.bundle.networks import build, keymap_of
from cogvideox.text import weights as text_weights
from cogvideox.text.encoder import T5Encoder
from cogvideox.weights.pickles import open_weights
from cogvideox.weights.strict import load_strict


def load_text(about: Description, *, device: torch.device | str, dtype: torch.dtype) -> T5Encoder:
    """The T5 encoder, in evaluation mode and without gradients. Raises UserError as `folder.load` does."""
    encoder, file = build(about.text), weights_file(about.path, "text_encoder")
    assert isinstance(encoder, T5Encoder)
    state = text_weights.one_embedding(open_weights(file))
    load_strict(encoder, state, where=str(file), rules=keymap_of(about.text), dtype=dtype, device=device)
    return encoder.requires_grad_(False)
