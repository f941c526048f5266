"""Time and peak memory of VAE decoding and encoding in this package and diffusers, on the CPU in float32, with equal
random weights. Strips of rows are exact (see `cogvideox.vae.inference.sliced`).

python benchmarks/vae.py                        # all presets, about two minutes on two cores
python benchmarks/vae.py --preset small

Memory is measured after all times, in addition to the memory allocated before the call; it includes the output, a few
MiB.
"""

import torch
from common import (
    Report,
    Variants,
    add_peaks,
    check_equal,
    interleave,
    make_row,
    option_parser,
    parse_options,
    write_report,
)
from diffusers import AutoencoderKLCogVideoX
from pairs import vaes

from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

# Description, config, and frames, height and width of the clip.
PRESETS: dict[str, tuple[str, VAEConfig, tuple[int, int, int]]] = {
    "small": ("a quarter of the widths", VAEConfig(block_out_channels=(32, 64, 64, 128)), (17, 64, 96)),
    "official": ("the official widths", VAEConfig(), (9, 64, 64)),
}
TINY = {
    "tiny": (
        "tiny widths",
        VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1),
        (9, 16, 16),
    )
}


def build_tasks(
    cogvideox: CausalVAE,
    diffusers: AutoencoderKLCogVideoX,
    size: tuple[int, int, int],
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Variants]:
    """Return the variants of decoding and of encoding a clip."""
    generator = torch.Generator().manual_seed(seed + 1)
    t, h, w = size
    z = torch.randn(1, cogvideox.config.latent_channels, (t - 1) // 4 + 1, h // 8, w // 8, generator=generator).to(
        dtype
    )
    video = (torch.rand(1, 3, t, h, w, generator=generator) * 2 - 1).to(dtype)
    return {
        "decode": {
            "diffusers": lambda: diffusers.decode(z).sample,
            "cogvideox": lambda: cogvideox.decode(z),
            "cogvideox, 4 strips": lambda: cogvideox.decode(z, strips=4),
        },
        "encode": {
            "diffusers": lambda: diffusers.encode(video).latent_dist.mean,
            "cogvideox": lambda: cogvideox.encode(video).mean,
            "cogvideox, 4 strips": lambda: cogvideox.encode(video, strips=4).mean,
        },
    }


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__, "vae", rounds=9, seconds=14)
    options, presets = parse_options(parser, PRESETS, TINY)
    rows: list[Report] = []
    measured: list[tuple[Report, Variants]] = []
    for name, (description, config, size) in presets.items():
        networks = vaes(config, seed=options.seed)
        for verb, variants in build_tasks(*networks, size, options.seed).items():
            task = f"{verb}, {name}: {description}, {'x'.join(map(str, size))}"
            errors = check_equal(task, {variant: run() for variant, run in variants.items()})
            rows.append(
                make_row(task, interleave(variants, options.rounds, seconds=options.seconds, warmup=0), error=errors)
            )
            measured.append((rows[-1], variants))
    for row, variants in measured:
        add_peaks(row, variants)
    write_report("vae", {"dtype": "float32", "weights": f"random, seed {options.seed}"}, rows, options.out)


if __name__ == "__main__":
    main()
