"""Linear layers in int8 on this CPU, relative to bfloat16 and float32.

python benchmarks/int8.py --threads 1        # less than a minute on one core

The layers are those that `--int8-compute` replaces: the projections of attention and the MLP's output layer, at the
widths of the 2B and of a small model, with random weights. `error` is the relative L2 error, with float32 as reference.
"""

from functools import partial

import torch
from common import apply_options, cpu_clock, interleave, make_row, option_parser, write_report

from cogvideox.linear import Linear
from cogvideox.transformer.acceleration.int8 import HAS_INT8_ARITHMETIC, Int8Linear

LAYERS = {
    "attention, width 1920": (1920, 1920),
    "MLP output, width 1920": (7680, 1920),
    "attention, width 256": (256, 256),
    "MLP output, width 256": (1024, 256),
}


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__, "int8", rounds=21, seconds=10)
    parser.add_argument("--tokens", type=int, default=1576, help="number of tokens")
    options = parser.parse_args()
    apply_options(options)
    generator = torch.Generator().manual_seed(options.seed)
    rows = []
    for name, (inputs, outputs) in LAYERS.items():
        if options.tiny:
            inputs, outputs = inputs // 16, outputs // 16
        exact = Linear(inputs, outputs)
        torch.nn.init.normal_(exact.weight, std=inputs**-0.5, generator=generator)
        x = torch.randn(16 if options.tiny else options.tokens, inputs, generator=generator)
        layers = {
            "bfloat16": Linear(inputs, outputs, dtype=torch.bfloat16),
            "float32": exact,
            "int8": Int8Linear(exact),
        }
        layers["bfloat16"].load_state_dict(exact.state_dict())
        layers["int8, bfloat16 activations"] = Int8Linear(layers["bfloat16"])
        calls = {
            variant: partial(layer, x.bfloat16() if "bfloat16" in variant else x) for variant, layer in layers.items()
        }
        outputs = {variant: call().float() for variant, call in calls.items()}
        reference = outputs["float32"]
        errors = {variant: ((out - reference).norm() / reference.norm()).item() for variant, out in outputs.items()}
        times = interleave(calls, options.rounds, seconds=options.seconds, clock=cpu_clock)
        rows.append(make_row(name, times, error=errors))
    settings = {"weights": f"random, seed {options.seed}", "has_int8_arithmetic": HAS_INT8_ARITHMETIC}
    write_report("int8", settings, rows, options.out)


if __name__ == "__main__":
    main()
