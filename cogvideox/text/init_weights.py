"""Initialization of the T5 encoder's weights."""

import torch

from cogvideox.text.encoder import RMSNorm, T5Attention, T5Encoder, T5FeedForward


@torch.no_grad()
def init_weights(model: T5Encoder, generator: torch.Generator) -> None:
    """Initialize the weights with the scales of T5, which keep the unscaled attention scores of order one.

    | part                                | weight                                 |
    |-------------------------------------|----------------------------------------|
    | token embedding                     | normal, variance 1                     |
    | position bias, keys, values         | normal, variance 1 / d_model           |
    | queries                             | normal, variance 1 / (d_model d_kv)    |
    | output of attention, feed-forward   | normal, variance 1 / fan-in            |
    | norms                               | 1                                      |

    The weights must be on the generator's device; a model on the meta device needs `to_empty` first.
    """
    config = model.config
    d, d_kv, d_ff, num_heads = config.d_model, config.d_kv, config.d_ff, config.num_heads
    model.embed.weight.normal_(std=1, generator=generator)
    model.position_bias.weight.normal_(std=d**-0.5, generator=generator)
    for module in model.modules():
        match module:
            case T5Attention():
                q, k, v = module.qkv.weight.chunk(3)
                q.normal_(std=(d * d_kv) ** -0.5, generator=generator)
                k.normal_(std=d**-0.5, generator=generator)
                v.normal_(std=d**-0.5, generator=generator)
                module.out.weight.normal_(std=(num_heads * d_kv) ** -0.5, generator=generator)
            case T5FeedForward():
                module.wi.weight.normal_(std=d**-0.5, generator=generator)
                module.wo.weight.normal_(std=d_ff**-0.5, generator=generator)
            case RMSNorm():
                module.weight.fill_(1)
