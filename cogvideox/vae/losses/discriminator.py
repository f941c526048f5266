"""The VAE's 3D discriminator (paper section 2.1), its hinge losses, and the adaptive weight of the GAN loss.

The paper does not specify the architecture. This one is a patch discriminator with the VAE's causal layers, for images
and clips of 4k+1 frames. Because it is causal, the logits of a first frame equal those of a single image. It has no
norms, so logits do not depend on other samples or chunks.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.causal_conv import CausalConv3d, ConvCache
from cogvideox.vae.config import DiscriminatorConfig
from cogvideox.vae.layers import PointwiseConv3d, average_frame_pairs

Pixels = Float[Tensor, "b 3 t h w"]
Features = Float[Tensor, "b _c _t _h _w"]
Logits = Float[Tensor, "b 1 _t _h _w"]

SLOPE = 0.1
"""Negative slope of the leaky ReLUs."""

MAX_WEIGHT = 1e4
"""Upper limit of the adaptive weight."""


class DiscriminatorBlock(nn.Module):
    """Two convolutions with a skip connection; halves height and width and, with `compress_time`, the frames."""

    def __init__(self, in_channels: int, out_channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.skip = PointwiseConv3d(in_channels, out_channels)

    def forward(self, x: Features, conv_cache: ConvCache) -> Features:
        y = F.leaky_relu(self.conv1(x, conv_cache), SLOPE)
        y = F.leaky_relu(self.conv2(y, conv_cache), SLOPE)
        y, x = (_downsample(features, self.compress_time, conv_cache) for features in (y, x))
        return (y + self.skip(x)) * math.sqrt(0.5)


def _downsample(x: Features, compress_time: bool, conv_cache: ConvCache) -> Features:
    """Average 2x2 pixels and, with `compress_time`, pairs of frames, as in the VAE."""
    return F.avg_pool3d(average_frame_pairs(x, conv_cache.is_first) if compress_time else x, (1, 2, 2))


class Discriminator(nn.Module):
    """Patch discriminator: one logit per patch of a video, high for real and low for reconstructed patches."""

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
        """Return the logits of clips of 4k+1 frames, or of their chunks with a `conv_cache` (see `vae.causal_conv`)."""
        conv_cache = conv_cache or ConvCache()
        x = F.leaky_relu(self.conv_in(video, conv_cache), SLOPE)
        for block in self.blocks:
            x = block(x, conv_cache)
        return self.conv_out(x, conv_cache)


@torch.no_grad()
def init_weights(discriminator: Discriminator, generator: torch.Generator | None = None) -> None:
    """Initialize weights with variance 2 / fan-in (skip connections and last layer: 1 / fan-in), biases with 0."""
    for name, module in discriminator.named_modules():
        if isinstance(module, CausalConv3d | PointwiseConv3d):
            gain = 1 if name == "conv_out" or name.endswith("skip") else 2
            nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5, generator=generator)
            nn.init.zeros_(module.bias)  # pyrefly: ignore[bad-argument-type]


def generator_loss(fake: Logits) -> Float[Tensor, ""]:
    """Hinge loss of the generator: -mean(D(fake))."""
    return -fake.mean()


def hinge_loss(real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """Hinge loss of the discriminator: (mean(max(0, 1 - D(real))) + mean(max(0, 1 + D(fake)))) / 2."""
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2


def adaptive_weight(
    reconstruction: Pixels,
    last_layer: Tensor,
    reconstruction_grad: Pixels,
    adversarial_grad: Pixels,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Return the adaptive weight of the GAN loss (VQGAN, arXiv 2012.09841, equation 7), detached.

    It is the ratio of gradient norms at the decoder's last layer, at most `MAX_WEIGHT`.

    Args:
        last_layer: the weight of the decoder's last layer, which produced `reconstruction`.
        reconstruction_grad, adversarial_grad: gradients of the two losses with respect to `reconstruction`.
        average: averages the gradient of the layer over all ranks of the step; None for a single process.
    """
    norms = []
    for gradient in (reconstruction_grad, adversarial_grad):
        (grad,) = torch.autograd.grad(reconstruction, last_layer, gradient, retain_graph=True)
        norms.append((grad if average is None else average(grad)).norm())
    epsilon = norms[0] / MAX_WEIGHT + torch.finfo(norms[0].dtype).tiny
    return norms[0] / (norms[1] + epsilon)
