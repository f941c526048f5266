"""The 3D discriminator of the VAE's adversarial term (paper section 2.1), its losses and the weight of the term.

What is published of it is a name; this one is made of the VAE's own causal layers. It judges patch by patch, sees
single images and clips of 4k+1 frames alike, and never looks ahead: the first frame is judged as an image is. There are
no norms, so nothing pools over a batch, a clip or a chunk.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.config import DiscriminatorConfig
from cogvideox.vae.conv_cache import ConvCache
from cogvideox.vae.layers import CausalConv3d, PointwiseConv3d

Pixels = Float[Tensor, "b 3 t h w"]
Features = Float[Tensor, "b _c _t _h _w"]
Logits = Float[Tensor, "b 1 _t _h _w"]

SLOPE = 0.1
LARGEST_WEIGHT = 1e4


class DiscriminatorBlock(nn.Module):
    """Two convolutions beside a plain path, at half the height and width after it and, where asked, half the frames."""

    def __init__(self, in_channels: int, out_channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.skip = PointwiseConv3d(in_channels, out_channels)

    def forward(self, x: Features, conv_cache: ConvCache) -> Features:
        y = F.leaky_relu(self.conv1(x, conv_cache), SLOPE)
        y = F.leaky_relu(self.conv2(y, conv_cache), SLOPE)
        y, x = (_halved(part, self.compress_time, conv_cache) for part in (y, x))
        return (y + self.skip(x)) * math.sqrt(0.5)


def _halved(x: Features, compress_time: bool, conv_cache: ConvCache) -> Features:
    """The means of 2x2 pixels and of pairs of frames; the first frame of a video stays alone, as in the VAE."""
    if compress_time:
        first, rest = x.split([1, x.shape[2] - 1], dim=2) if conv_cache.is_first else (x[:, :, :0], x)
        x = torch.cat([first, (rest[:, :, 0::2] + rest[:, :, 1::2]) / 2], dim=2)
    return F.avg_pool3d(x, (1, 2, 2))


class Discriminator(nn.Module):
    """Video to one number for each patch: high for what looks recorded, low for what looks reconstructed."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.num_levels + 1)]
        self.conv_in = CausalConv3d(3, widths[0])
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(widths[i], widths[i + 1], i < config.num_temporal_levels)
            for i in range(config.num_levels)
        )
        self.conv_out = CausalConv3d(widths[-1], 1)

    def forward(self, video: Pixels, conv_cache: ConvCache | None = None) -> Logits:
        """The logits of a clip of 4k+1 frames; `conv_cache` is what a part of one knows of the frames before it."""
        conv_cache = conv_cache or ConvCache()
        x = F.leaky_relu(self.conv_in(video, conv_cache), SLOPE)
        for block in self.blocks:
            x = block(x, conv_cache)
        return self.conv_out(x, conv_cache)


@torch.no_grad()
def init_weights(discriminator: Discriminator, generator: torch.Generator | None = None) -> None:
    """Convolutions normal with variance 2 / fan-in, the plain paths and the last one with 1 / fan-in; biases 0."""
    for name, module in discriminator.named_modules():
        if isinstance(module, CausalConv3d | PointwiseConv3d):
            gain = 1 if name == "conv_out" or name.endswith("skip") else 2
            nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5, generator=generator)
            nn.init.zeros_(module.bias)  # pyrefly: ignore[bad-argument-type]


def generator_loss(fake: Logits) -> Float[Tensor, ""]:
    """What the VAE is asked for: reconstructions that are taken for recorded."""
    return -fake.mean()


def hinge_loss(real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """What the discriminator is asked for: above 1 for recorded patches, below -1 for reconstructed ones."""
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2


def adaptive_weight(
    reconstruction: Pixels,
    last_layer: Tensor,
    likeness: Pixels,
    adversarial: Pixels,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """The factor that makes the adversarial term pull at the decoder's last layer as hard as the others (VQGAN,
    arXiv 2012.09841, equation 7), at most 10,000. A constant for the gradient.

    Args:
        last_layer: a weight that `reconstruction` was made with.
        likeness, adversarial: the gradients of the two losses with respect to `reconstruction`.
        average: of a gradient of the layer over the processes that have other pixels of the same step.
    """
    pulls = []
    for gradient in (likeness, adversarial):
        (pull,) = torch.autograd.grad(reconstruction, last_layer, gradient, retain_graph=True)
        pulls.append((pull if average is None else average(pull)).norm())
    floor = pulls[0] / LARGEST_WEIGHT + torch.finfo(pulls[0].dtype).tiny
    return pulls[0] / (pulls[1] + floor)
