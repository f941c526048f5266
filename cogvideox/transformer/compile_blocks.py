"""`torch.compile` for a transformer, block by block.

Blocks are alike, so that one compilation serves them all and takes seconds where that of the whole model takes minutes.
The compiler keeps its results on disk (in `TORCHINDUCTOR_CACHE_DIR`, or else the folder for temporary files), and the
next process finds them there.
"""

import torch

from cogvideox.transformer.model import Transformer


def compile_blocks(model: Transformer) -> None:
    """Compiles the blocks in place, at their first call in each shape. Names and weights stay what they are.

    What hangs on a block, such as hooks that bring its weights, is left outside. When a LoRA comes or goes, blocks are
    compiled anew at the next call.
    """
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
