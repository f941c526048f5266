"""Compilation of a transformer block by block with `torch.compile`.

All blocks share one compilation, which takes seconds; compiling the whole model would take minutes. The compiler caches
results for later processes on disk, in `TORCHINDUCTOR_CACHE_DIR` or the temporary folder.
"""

import torch

from cogvideox.transformer.model import Transformer


def compile_blocks(model: Transformer) -> None:
    """Compile the blocks, in place. Compilation happens at the first call for each shape; weights keep their names.

    Hooks of a block, such as those of group offloading, are not compiled. After a LoRA is added or removed, blocks are
    recompiled at the next call.
    """
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
