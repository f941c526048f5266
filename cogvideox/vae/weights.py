"""The VAE's weights: key maps to diffusers and SAT, initialisation and rescaling."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.state_dict.keymap import Merge, Rename, Rule
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.layers import CausalConv3d, Downsample, LatentNorm, PointwiseConv3d, ResnetBlock, Upsample
from cogvideox.vae.model import CausalVAE

_RESNETS = {
    "encoder.down_blocks.{n}.resnets.{m}": "encoder.levels.{n}.resnets.{m}",
    "encoder.mid_block.resnets.{m}": "encoder.mid.resnets.{m}",
    "decoder.mid_block.resnets.{m}": "decoder.mid.resnets.{m}",
    "decoder.up_blocks.{n}.resnets.{m}": "decoder.levels.{n}.resnets.{m}",
}


def _latent_norm(theirs: str, ours: str) -> list[Rule]:
    """Rules of a decoder norm, whose two 1x1x1 convolutions of the latents are one tensor here."""
    return [
        Rename(f"{theirs}.norm_layer.*", f"{ours}.norm.*"),
        Merge((f"{theirs}.conv_y.conv.*", f"{theirs}.conv_b.conv.*"), f"{ours}.modulation.*", dim=0),
    ]


def _resnet(theirs: str, ours: str, shortcut: str) -> list[Rule]:
    rules: list[Rule] = []
    for i in (1, 2):
        rules.append(Rename(f"{theirs}.conv{i}.conv.*", f"{ours}.conv{i}.*"))
        if ours.startswith("decoder"):
            rules += _latent_norm(f"{theirs}.norm{i}", f"{ours}.norm{i}")
        else:
            rules.append(Rename(f"{theirs}.norm{i}.*", f"{ours}.norm{i}.*"))
    return [*rules, Rename(f"{theirs}.{shortcut}.*", f"{ours}.conv_shortcut.*")]


def _ends() -> list[Rule]:
    """Rules of the first and last layers, whose names are the same in diffusers and SAT."""
    names = [f"{half}.{name}" for half in ("encoder", "decoder") for name in ("conv_in", "conv_out")]
    norm = _latent_norm("decoder.norm_out", "decoder.norm_out")
    return [*(Rename(f"{name}.conv.*", f"{name}.*") for name in names), *norm]


def _keymap() -> list[Rule]:
    return [
        *(rule for theirs, ours in _RESNETS.items() for rule in _resnet(theirs, ours, "conv_shortcut")),
        Rename("encoder.down_blocks.{n}.downsamplers.0.conv.*", "encoder.levels.{n}.resample.conv.*"),
        Rename("decoder.up_blocks.{n}.upsamplers.0.conv.*", "decoder.levels.{n}.resample.conv.*"),
        *_ends(),
    ]


KEYMAP = _keymap()
"""Key map to diffusers (see `state_dict.keymap`)."""


def sat_keymap(config: VAEConfig) -> list[Rule]:
    """Key map to SAT, the original code, which numbers the decoder's levels from the pixels."""
    rules = [
        *_resnet("encoder.down.{n}.block.{m}", "encoder.levels.{n}.resnets.{m}", "nin_shortcut"),
        Rename("encoder.down.{n}.downsample.conv.*", "encoder.levels.{n}.resample.conv.*"),
        *_ends(),
    ]
    for half in ("encoder", "decoder"):
        for i in (1, 2):
            rules += _resnet(f"{half}.mid.block_{i}", f"{half}.mid.resnets.{i - 1}", "nin_shortcut")
    num_levels = len(config.block_out_channels)
    for i in range(num_levels):
        theirs, ours = f"decoder.up.{num_levels - 1 - i}", f"decoder.levels.{i}"
        rules += _resnet(theirs + ".block.{m}", ours + ".resnets.{m}", "nin_shortcut")
        rules.append(Rename(f"{theirs}.upsample.conv.*", f"{ours}.resample.conv.*"))
    return rules


@torch.no_grad()
def init_weights(vae: CausalVAE, generator: torch.Generator | None = None) -> None:
    """Initialise the weights, such that a small VAE learns from its first hundred steps on.

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
    readers = [vae.decoder.conv_in, *(m.modulation for m in vae.decoder.modules() if isinstance(m, LatentNorm))]
    for layer in readers:
        layer.weight.div_(factors.view(1, -1, 1, 1, 1))
