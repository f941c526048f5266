"""Memory, error and time of VAE decoding in strips of rows, compared to decoding without strips.

python benchmarks/strips.py                # the official widths, 17x240x360: 8 minutes per variant on one core
python benchmarks/strips.py --tiny

Memory is the peak above the memory in use before decoding; memory and time are medians over the rounds. With
"offload", feature maps that are not in use are moved to temporary files.
"""

import time
from statistics import median

import torch
from common import Report, apply_options, check_equal, option_parser, peak_extra_bytes, write_report

from cogvideox.pretrained.components import build_network
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

OFFICIAL = (VAEConfig(), (17, 240, 360))
TINY = (VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1), (9, 64, 48))
NUM_STRIPS = (4, 15)


def random_vae(config: VAEConfig, seed: int) -> CausalVAE:
    """Build a VAE with random weights that preserve the scale of activations."""
    vae, generator = build_network(config).to_empty(device="cpu"), torch.Generator().manual_seed(seed)
    for parameter in vae.parameters():
        fan_in = parameter[0].numel()
        torch.nn.init.normal_(parameter, std=fan_in**-0.5 if parameter.ndim > 1 else 0.1, generator=generator)
    return vae.requires_grad_(False)


@torch.inference_mode()
def main() -> None:
    parser = option_parser(__doc__, "strips", rounds=1, seconds=0)
    parser.add_argument("--strips", type=int, nargs="+", default=NUM_STRIPS, help="numbers of strips to measure")
    options = parser.parse_args()
    apply_options(options)
    config, (frames, height, width) = TINY if options.tiny else OFFICIAL
    vae = random_vae(config, options.seed)
    shape = (1, config.latent_channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed + 1))
    modes = {"whole": (1, False)}
    for number in options.strips:
        modes |= {f"{number} strips": (number, False), f"{number} strips, offload": (number, True)}

    videos: dict[str, torch.Tensor] = {}
    variants: Report = {}
    vae.decode(z[:, :, :2, :8, :8], strips=2)  # warm-up: initialization that does not depend on the size
    for name, (strips, offload) in modes.items():

        def decode() -> None:
            videos[name] = vae.decode(z, strips=strips, offload=offload)  # noqa: B023

        peaks, seconds = [], []
        for _ in range(options.rounds):
            start_time = time.perf_counter()
            peaks.append(peak_extra_bytes(decode))
            seconds.append(time.perf_counter() - start_time)
        variants[name] = {"median": median(seconds), "peak_extra_bytes": round(median(peaks))}
        variants[name]["of_whole"] = variants[name]["peak_extra_bytes"] / variants["whole"]["peak_extra_bytes"]
    for name, error in check_equal("strips", videos).items():
        variants[name]["error"] = error
    task = f"decode {frames}x{height}x{width}, widths {'x'.join(map(str, config.block_out_channels))}"
    rows = [{"task": task, "reference": "whole", "variants": variants}]
    write_report("strips", {"dtype": "float32", "weights": f"random, seed {options.seed}"}, rows, options.out)


if __name__ == "__main__":
    main()
