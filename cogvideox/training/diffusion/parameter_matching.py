"""Transformers of equal size: widths with which a variant has as many parameters as another transformer.

Imports no torch.
"""

import math
from dataclasses import replace

from cogvideox.errors import UserError
from cogvideox.pretrained.offload.transformer_cost import transformer_parameters
from cogvideox.transformer.config import TransformerConfig

TOLERANCE = 0.01
"""Maximum relative difference of the numbers of parameters."""


def match_parameters(variant: TransformerConfig, reference: TransformerConfig) -> TransformerConfig:
    """Return a variant with as many parameters as the reference: with a different number of heads and MLP width.

    The number of heads is the one for which the MLP is closest to 4 times the width of a token, and the width of the
    MLP then makes up for the rest. Depth, width of a head and all other settings are unchanged.

    Raises:
        UserError: no width gives the number of parameters to within 1 %.
    """
    target = transformer_parameters(reference).total
    candidates = []
    for num_heads in range(1, 2 * reference.num_attention_heads + 1):
        if num_heads * variant.attention_head_dim % 16:  # sinusoidal positions need a multiple of 16
            continue
        resized = replace(variant, num_attention_heads=num_heads, ffn_dim=1)
        first, second = (transformer_parameters(replace(resized, ffn_dim=k)).total for k in (1, 2))
        candidates.append(replace(resized, ffn_dim=max(1, 1 + round((target - first) / (second - first)))))
    best = min(candidates, key=lambda config: abs(math.log(config.mlp_width / (4 * config.width))))
    num_parameters = transformer_parameters(best).total
    if abs(num_parameters / target - 1) > TOLERANCE:
        raise UserError(
            f"the variant has {num_parameters:,} parameters at best, and the reference has {target:,}: choose a "
            "smaller attention_head_dim"
        )
    return replace(best, ffn_dim=None) if best.mlp_width == 4 * best.width else best
