"""How a sampler's network is asked without losing time, with the same result: on a GPU by the fastest attention for the
shape, and where kernels are so short that launching them would take longer, by CUDA graphs; anywhere, compiled. Only
float8 makes another result, and has to be asked for."""

import os
import shutil
import sys
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.pretrained.offload.planner import MemoryPlan
from cogvideox.transformer.attention import Attend
from cogvideox.transformer.attention_backends import fastest_backend
from cogvideox.transformer.compile_blocks import compile_blocks
from cogvideox.transformer.cuda_graphs import GraphedFunction
from cogvideox.transformer.float8 import multiplies_float8, to_float8
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.modulation import Modulation
from cogvideox.transformer.position import Positions

TO_STAY = "load with memory='speed' (--memory speed) and without int8 or fp8"
"""How a transformer's weights come to stay as they are."""

# Latents, texts and the tables of one step to the velocity.
Ask = Callable[[Float[Tensor, "b c t h w"], Float[Tensor, "b n d"], Modulation], Float[Tensor, "b c t h w"]]

# Multiplications and additions in one block's linear layers, of one clip, up to which it is recorded. A GPU of 400
# TFLOP/s then spends half a millisecond on the block, and launching its kernels one by one takes about as long.
_SMALL = 2e11


def check(device: torch.device, plan: MemoryPlan, *, compile: bool, float8: bool) -> None:
    """Whether a transformer that lies as planned can be made faster so; asked before any weight is read.

    Raises:
        UserError: weights that do not stay; a CPU without a C++ compiler; a device that does not multiply in 8 bits.
    """
    for name, wanted in (("compile", compile), ("float8", float8)):
        if wanted and not plan.weights_stay_exact:
            raise UserError(f"{name} is for weights that stay as they are: leave it out, or {TO_STAY}")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"compile takes a C++ compiler on a CPU, and {compiler!r} is not here: install it, or set CXX")
    if float8 and not multiplies_float8(device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"device={str(device)!r}"
        raise UserError(
            "float8 takes a GPU that multiplies numbers of 8 bits, as Nvidia's do since Ada and Hopper, and "
            f"{name} does not: leave it out (--no-float8)"
        )


def make_faster(model: Transformer, *, compile: bool, float8: bool) -> None:
    """Compiles the blocks of a transformer, and rounds their linear layers to 8 bits, which changes its videos."""
    if float8:
        to_float8(model)
    if compile:
        compile_blocks(model)


def ask(model: Transformer, positions: Positions, num_tokens: int, attend: Attend | None = None) -> Ask:
    """The transformer for one size of clips.

    What is recorded is good as long as the model stays what it is: this is for one run of a sampler.

    Args:
        num_tokens: of text and video.
        attend: dense attention by the fastest kernel unless given.
    """
    heads, head_dim = model.config.num_attention_heads, model.config.attention_head_dim

    def plain(latents: Tensor, text: Tensor, modulation: Modulation) -> Tensor:
        how = attend
        if how is None:
            batch, dtype, device = len(latents), latents.dtype, latents.device
            how = fastest_backend(heads, num_tokens, batch, dtype, device, head_dim=head_dim).attend
        return model(latents, text, None, positions=positions, modulation=modulation, attend=how)

    if not _recordable(model, num_tokens):
        return plain
    graphed = GraphedFunction(lambda latents, text, *tables: plain(latents, text, Modulation.from_flat(tables)))
    return lambda latents, text, modulation: graphed(latents, text, *modulation.flat())


def _recordable(model: Transformer, num_tokens: int) -> bool:
    """Small, and with all of its weights in place: hooks that bring them cannot be replayed."""
    hooked = any(block._forward_pre_hooks for block in model.blocks)
    return not hooked and 24 * num_tokens * model.config.width**2 <= _SMALL
