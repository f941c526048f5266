"""Names of the VAE's weights in checkpoints of diffusers and SAT, as invertible keymaps (`state_dict.key_rules`)."""

from cogvideox.state_dict.key_rules import Merge, Rename, Rule
from cogvideox.vae.config import VAEConfig

_RESNETS = {
    "encoder.down_blocks.{n}.resnets.{m}": "encoder.levels.{n}.resnets.{m}",
    "encoder.mid_block.resnets.{m}": "encoder.mid.resnets.{m}",
    "decoder.mid_block.resnets.{m}": "decoder.mid.resnets.{m}",
    "decoder.up_blocks.{n}.resnets.{m}": "decoder.levels.{n}.resnets.{m}",
}


def _latent_norm(external: str, internal: str) -> list[Rule]:
    """Return the rules for a decoder norm, which merge its two 1x1x1 convolutions of the latents."""
    return [
        Rename(f"{external}.norm_layer.*", f"{internal}.norm.*"),
        Merge((f"{external}.conv_y.conv.*", f"{external}.conv_b.conv.*"), f"{internal}.modulation.*", dim=0),
    ]


def _resnet(external: str, internal: str, shortcut: str) -> list[Rule]:
    rules: list[Rule] = []
    for i in (1, 2):
        rules.append(Rename(f"{external}.conv{i}.conv.*", f"{internal}.conv{i}.*"))
        if internal.startswith("decoder"):
            rules += _latent_norm(f"{external}.norm{i}", f"{internal}.norm{i}")
        else:
            rules.append(Rename(f"{external}.norm{i}.*", f"{internal}.norm{i}.*"))
    return [*rules, Rename(f"{external}.{shortcut}.*", f"{internal}.conv_shortcut.*")]


def _input_and_output_layers() -> list[Rule]:
    """Return the rules for the first and last layers, which have the same names in diffusers and SAT."""
    names = [f"{network}.{name}" for network in ("encoder", "decoder") for name in ("conv_in", "conv_out")]
    norm = _latent_norm("decoder.norm_out", "decoder.norm_out")
    return [*(Rename(f"{name}.conv.*", f"{name}.*") for name in names), *norm]


def _diffusers_keymap() -> list[Rule]:
    return [
        *(rule for external, internal in _RESNETS.items() for rule in _resnet(external, internal, "conv_shortcut")),
        Rename("encoder.down_blocks.{n}.downsamplers.0.conv.*", "encoder.levels.{n}.resample.conv.*"),
        Rename("decoder.up_blocks.{n}.upsamplers.0.conv.*", "decoder.levels.{n}.resample.conv.*"),
        *_input_and_output_layers(),
    ]


DIFFUSERS_KEYMAP = _diffusers_keymap()
"""The rules between diffusers' names and the names of this package."""


def sat_keymap(config: VAEConfig) -> list[Rule]:
    """Return the rules between the names of SAT, the original code, and the names of this package.

    SAT numbers the decoder's levels from the output.
    """
    rules = [
        *_resnet("encoder.down.{n}.block.{m}", "encoder.levels.{n}.resnets.{m}", "nin_shortcut"),
        Rename("encoder.down.{n}.downsample.conv.*", "encoder.levels.{n}.resample.conv.*"),
        *_input_and_output_layers(),
    ]
    for network in ("encoder", "decoder"):
        for i in (1, 2):
            rules += _resnet(f"{network}.mid.block_{i}", f"{network}.mid.resnets.{i - 1}", "nin_shortcut")
    num_levels = len(config.block_out_channels)
    for i in range(num_levels):
        external, internal = f"decoder.up.{num_levels - 1 - i}", f"decoder.levels.{i}"
        rules += _resnet(external + ".block.{m}", internal + ".resnets.{m}", "nin_shortcut")
        rules.append(Rename(f"{external}.upsample.conv.*", f"{internal}.resample.conv.*"))
    return rules
