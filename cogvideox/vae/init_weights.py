"""Initialization of the VAE's weights, and rescaling of its latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.causal_conv import CausalConv3d
from cogvideox.vae.layers import Downsample, LatentNorm, PointwiseConv3d, ResnetBlock, Upsample
from cogvideox.vae.model import CausalVAE


@torch.no_grad()
def init_weights(vae: CausalVAE, generator: torch.Generator | None = None) -> None:
    """Initialize the weights so that the loss of a small VAE decreases within the first hundred steps.

    | part                    | weight                                       | bias                               |
    |-------------------------|----------------------------------------------|------------------------------------|
    | convolutions            | normal, variance 1 / fan-in                  | 0                                  |
    | second conv of a block  | 0.3 of that: blocks start near the identity  | 0                                  |
    | resampling convs        | 0.3 of that, plus the identity               | 0                                  |
    | latent norm, scale      | 0                                            | 1: starts as a plain norm          |
    | latent norm, shift      | normal, variance 1 / fan-in                  | 0: latents reach every level       |
    | log-variance of latents | 0                                            | -5: starts with little noise       |
    """
    for module in vae.modules():
        match module:
            case nn.Conv2d() | CausalConv3d() | PointwiseConv3d():
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
                nn.init.zeros_(module.bias)  # pyrefly: ignore[bad-argument-type]
    for module in vae.modules():
        match module:
            case LatentNorm():
                scale, _ = module.modulation.weight.chunk(2)
                scale.zero_()
                module.modulation.bias.chunk(2)[0].fill_(1.0)  # pyrefly: ignore[missing-attribute]
            case ResnetBlock():
                module.conv2.weight.mul_(0.3)
            case Upsample():
                module.conv.weight.mul_(0.3)
                module.conv.weight[:, :, 1, 1].diagonal().add_(1.0)
            case Downsample():
                module.conv.weight.mul_(0.3)
                for i in range(2):  # the mean of 2x2 pixels
                    for j in range(2):
                        module.conv.weight[:, :, i, j].diagonal().add_(0.25)
    _, logvar = vae.encoder.conv_out.weight.chunk(2)
    logvar.zero_()
    vae.encoder.conv_out.bias.chunk(2)[1].fill_(-5.0)  # pyrefly: ignore[missing-attribute]


@torch.no_grad()
def rescale_latents(vae: CausalVAE, factors: Float[Tensor, " z"]) -> None:
    """Multiply each latent channel by a positive factor, in place, without changing any reconstruction.

    The encoder's last layer is multiplied by the factors, and the decoder layers that read latents are divided by them.
    """
    encoder_out = vae.encoder.conv_out
    mean, _ = encoder_out.weight.chunk(2)
    mean.mul_(factors.view(-1, 1, 1, 1, 1))
    mean_bias, logvar_bias = encoder_out.bias.chunk(2)  # pyrefly: ignore[missing-attribute]
    mean_bias.mul_(factors)
    logvar_bias.add_(2.0 * factors.log())
    latent_layers = [vae.decoder.conv_in, *(m.modulation for m in vae.decoder.modules() if isinstance(m, LatentNorm))]
    for layer in latent_layers:
        layer.weight.div_(factors.view(1, -1, 1, 1, 1))
