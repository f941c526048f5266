"""What strips of rows save when the VAE decodes, and that they change nothing: memory, error and time of each way.

python benchmarks/strips.py                # the official widths, 17x240x360: 8 minutes a way on a core
python benchmarks/strips.py --tiny

The reference is the same decoder without strips. A way's memory is its peak beyond what there was before, of all rounds
the median, and so is its time. With "offload", what waits is in temporary files.
"""

import time
from statistics import median

import torch
from common import Report, arguments, check_equal, finish, peak_extra_bytes, start

from cogvideox.pretrained.components import build_network
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

OFFICIAL = (VAEConfig(), (17, 240, 360))
TINY = (VAEConfig(block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1), (9, 64, 48))
NUM_STRIPS = (4, 15)


def random_vae(config: VAEConfig, seed: int) -> CausalVAE:
    """With weights that keep the size of what goes through."""
    vae, generator = build_network(config).to_empty(device="cpu"), torch.Generator().manual_seed(seed)
    assert isinstance(vae, CausalVAE)
    for parameter in vae.parameters():
        fan_in = parameter[0].numel()
        torch.nn.init.normal_(parameter, std=fan_in**-0.5 if parameter.ndim > 1 else 0.1, generator=generator)
    return vae.requires_grad_(False)


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__, "strips", rounds=1, seconds=0)
    parser.add_argument("--strips", type=int, nargs="+", default=NUM_STRIPS, help="how many, in a way each")
    options = parser.parse_args()
    start(options)
    config, (frames, height, width) = TINY if options.tiny else OFFICIAL
    vae = random_vae(config, options.seed)
    shape = (1, config.latent_channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed + 1))
    choices = {"whole": (1, False)}
    for number in options.strips:
        choices |= {f"{number} strips": (number, False), f"{number} strips, offload": (number, True)}

    videos: dict[str, torch.Tensor] = {}
    ways: Report = {}
    vae.decode(z[:, :, :2, :8, :8], strips=2)  # what is made once, whatever the size
    for name, (strips, offload) in choices.items():

        def decode() -> None:
            videos[name] = vae.decode(z, strips=strips, offload=offload)  # noqa: B023

        peaks, seconds = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            peaks.append(peak_extra_bytes(decode))
            seconds.append(time.perf_counter() - began)
        ways[name] = {"median": median(seconds), "peak_extra_bytes": round(median(peaks))}
        ways[name]["of_whole"] = ways[name]["peak_extra_bytes"] / ways["whole"]["peak_extra_bytes"]
    for name, error in check_equal("strips", videos).items():
        ways[name]["error"] = error
    task = f"decode {frames}x{height}x{width}, widths {'x'.join(map(str, config.block_out_channels))}"
    rows = [{"task": task, "reference": "whole", "ways": ways}]
    finish("strips", {"dtype": "float32", "weights": f"random, seed {options.seed}"}, rows, options.out)


if __name__ == "__main__":
    main()
