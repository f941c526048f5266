"""`torch.compile` of a transformer block by block.

All blocks share one compilation, which takes seconds instead of minutes for the whole model. The compiler caches its
results on disk (in `TORCHINDUCTOR_CACHE_DIR`, by default the temporary folder) for other processes.
"""

import torch

from cogvideox.transformer.model import Transformer


def compile_blocks(model: Transformer) -> None:
    """Compile the blocks in place, at the first call for each shape. Names and weights do not change.

    Hooks of a block, such as those of group offloading, are not compiled. After a LoRA is added or removed, blocks are
    recompiled at the next call.
    """
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
