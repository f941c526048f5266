"""Forward pass of the transformer in this package and diffusers, on the CPU in float32, with equal random weights.

python benchmarks/transformer.py                            # all presets, about a minute and a half on two cores
python benchmarks/transformer.py --preset official --rounds 3
python benchmarks/transformer.py --compile                  # also with compiled blocks, an additional minute

"cogvideox" computes everything in the call, as diffusers does. "cogvideox, in a sampler" gets the modulation, which
depends only on the timestep, as an input, because samplers compute it for all steps in advance.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from common import Report, Variants, check_equal, interleave, make_row, option_parser, parse_options, write_report
from pairs import TransformerPair, compiled_blocks, transformers
from torch import Tensor

from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.presets import PRESETS as OFFICIAL

_SMALL = {"num_attention_heads": 4, "num_layers": 8, "text_embed_dim": 64, "max_text_seq_length": 32}
_TINY = {"num_attention_heads": 1, "num_layers": 2, "text_embed_dim": 16, "max_text_seq_length": 8}

# Description, config, latent frames, height and width, and batch size.
PRESETS: dict[str, tuple[str, TransformerConfig, tuple[int, int, int], int]] = {
    "small": ("width 256, 8 blocks, 352 tokens", replace(OFFICIAL["2b"](), **_SMALL), (5, 16, 16), 2),
    "small-rotary": ("width 256, 8 rotary blocks, 352 tokens", replace(OFFICIAL["5b"](), **_SMALL), (5, 16, 16), 2),
    "official": ("the 2B's width 1920, 2 blocks, 1576 tokens", replace(OFFICIAL["2b"](), num_layers=2), (1, 60, 90), 1),
}
TINY = {
    "tiny": ("width 64", replace(OFFICIAL["2b"](), **_TINY), (1, 4, 6), 2),
    "tiny-rotary": ("width 64, rotary", replace(OFFICIAL["5b"](), **_TINY), (1, 4, 6), 2),
}


def build_variants(pair: TransformerPair, compiled: bool) -> Variants:
    tables = pair.cogvideox.precompute_modulation(pair.timestep[:1])[0]

    def in_a_sampler(network: Transformer) -> Callable[[], Tensor]:
        return lambda: network(pair.latents, pair.text, None, positions=pair.positions, modulation=tables)

    variants = {
        "diffusers": pair.predict_with_diffusers,
        "cogvideox": pair.predict,
        "cogvideox, in a sampler": in_a_sampler(pair.cogvideox),
    }
    if compiled:
        compiled_pair = replace(pair, diffusers=compiled_blocks(pair.diffusers, "transformer_blocks"))
        variants |= {
            "diffusers, compiled": compiled_pair.predict_with_diffusers,
            "cogvideox, compiled": in_a_sampler(compiled_blocks(pair.cogvideox, "blocks")),
        }
    return variants


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__, "transformer", rounds=15, seconds=25)
    parser.add_argument("--compile", action="store_true", help="also measure both with compiled blocks")
    options, presets = parse_options(parser, PRESETS, TINY)
    rows: list[Report] = []
    for name, (description, config, size, batch) in presets.items():
        pair = transformers(config, size, batch=batch, seed=options.seed)
        variants = build_variants(pair, options.compile)
        task = f"forward, {name}: {description}"
        results, first_seconds = {}, {}
        for variant, predict in variants.items():
            start = time.perf_counter()
            results[variant] = predict()
            first_seconds[variant] = time.perf_counter() - start
        errors = check_equal(task, results)
        times = interleave(variants, options.rounds, seconds=options.seconds)
        rows.append(make_row(task, times, error=errors, first_seconds=first_seconds))
    write_report("transformer", {"dtype": "float32", "weights": f"random, seed {options.seed}"}, rows, options.out)


if __name__ == "__main__":
    main()
