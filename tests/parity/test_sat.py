"""Converted SAT checkpoints have the predictions, latents and videos of reference implementations in SAT's layout.

Settings that are not in the tensors are read from a diffusers folder with other weights, because these models are
smaller than the official ones.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvideox.pretrained import model_folder
from cogvideox.pretrained.conversion.convert import plan_conversion
from cogvideox.pretrained.conversion.detect import detect_checkpoint
from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.text.checkpoint_keys import TRANSFORMERS_KEYMAP
from cogvideox.transformer.config import TransformerConfig
from tests import tiny
from tests.parity import sat_transformer, sat_vae

TOLERANCE = 1e-5
CONFIGS = tiny.TRANSFORMERS | tiny.IMAGE_TRANSFORMERS


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def main_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a 1.0 transformer to the layout of SAT's main branch with patch_size [1, 2, 2].

    The patch embedding is a linear layer, and the table of rotary positions is not stored.
    """
    state = {name: tensor for name, tensor in state.items() if "pos_embed.freqs" not in name}
    patch = "mixins.patch_embed.proj.weight"
    return state | {patch: state[patch].flatten(1)}


def checkpoint(
    path: Path, config: TransformerConfig, *, single_file: bool, main: bool = False
) -> dict[str, dict[str, Tensor]]:
    """Write a SAT checkpoint and return the weights by component, with SAT's names.

    Args:
        single_file: write a single file, as after full fine-tuning, instead of the files of official checkpoints.
        main: write a 1.0 transformer in the layout of the main branch (`main_layout`).
    """
    generator = torch.Generator().manual_seed(3)
    transformer = sat_transformer.state(config, generator)
    parts = {
        "model.diffusion_model.": main_layout(transformer) if main else transformer,
        "first_stage_model.": sat_vae.state(tiny.vae_config("5b"), generator),
        "conditioner.embedders.0.transformer.": to_external(
            tiny.model().text_encoder.state_dict(), TRANSFORMERS_KEYMAP
        ),
    }
    in_file = parts if single_file else {"model.diffusion_model.": parts["model.diffusion_model."]}
    state = {prefix + name: tensor for prefix, part in in_file.items() for name, tensor in part.items()}
    folder = path / "transformer" / "1000"
    folder.mkdir(parents=True)
    (folder.parent / "latest").write_text("1000\n")
    torch.save({"module": state, "iteration": 1000}, folder / "mp_rank_00_model_states.pt")
    if not single_file:
        (path / "vae").mkdir()
        vae = parts["first_stage_model."] | {"loss.discriminator.weight": torch.ones(2)}
        torch.save({"state_dict": vae}, path / "vae/3d-vae.pt")
    return parts


@pytest.mark.parametrize(
    ("variant", "main"), [*((variant, False) for variant in CONFIGS), ("2b", True), ("5b", True), ("5b-i2v", True)]
)
@torch.no_grad()
def test_converted_transformer_predicts_the_same(tmp_path: Path, variant: str, main: bool) -> None:
    """`main`: files that the main branch writes with patches of [1, 2, 2]."""
    config = CONFIGS[variant]
    parts = checkpoint(tmp_path / "sat", config, single_file=False, main=main)
    spec = detect_checkpoint(tmp_path / "sat")
    assert (spec.format, spec.components.keys()) == ("SAT checkpoint", {"transformer", "vae"})

    # Models without the official number of channels need the variant to be told from 1.5.
    base = tiny.write(tmp_path / "base", variant)
    plan = plan_conversion(tmp_path / "sat", base=base, variant=variant if main else None)
    loaded = model_folder.load(plan.write_folder(tmp_path / "model"))
    assert loaded.transformer.config == config

    generator = torch.Generator().manual_seed(5)
    frames = 4 if config.patch_size_t else 3
    latents = torch.randn(2, frames, config.in_channels, 4, 6, generator=generator)
    text = torch.randn(2, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    timestep = torch.tensor([7, 901])
    ofs = 2.0 if config.ofs_embed_dim else None
    # The reference has SAT's eps of the last norm, 1e-6; the official conversion and this package have 1e-5.
    expected = sat_transformer.predict(
        parts["model.diffusion_model."],
        latents,
        text,
        timestep,
        num_heads=config.num_attention_heads,
        ofs=ofs,
        patch_frames=config.patch[0],
        rotary_positions=config.use_rotary_positional_embeddings,
    )
    actual = loaded.transformer(latents.transpose(1, 2), text, timestep, ofs=ofs)
    assert relative_error(actual.transpose(1, 2), expected) <= TOLERANCE


@pytest.mark.parametrize("num_frames", [9, 17, 49])
@torch.no_grad()
def test_converted_vae_encodes_and_decodes_the_same(tmp_path: Path, num_frames: int) -> None:
    """SAT encodes any clip as one chunk and decodes in chunks of two latent frames; 9 frames are a single chunk."""
    parts = checkpoint(tmp_path / "sat", CONFIGS["5b"], single_file=False)
    plan = plan_conversion(tmp_path / "sat", base=tiny.write(tmp_path / "base", "5b"))
    vae = model_folder.load(plan.write_folder(tmp_path / "model")).vae
    reference = sat_vae.VAE(parts["first_stage_model."], tiny.vae_config("5b").norm_num_groups)

    video = torch.rand(1, 3, num_frames, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, logvar = reference.encode(video).chunk(2, dim=1)
    posterior = vae.encode(video, norm_statistics="clip")
    assert relative_error(posterior.mean, mean) <= TOLERANCE
    assert relative_error(posterior.logvar, logvar.clamp(-30, 20)) <= TOLERANCE
    if num_frames == 9:
        assert relative_error(vae.decode(mean), reference.decode(mean)) <= TOLERANCE


def test_checkpoint_in_one_file_is_converted(tmp_path: Path) -> None:
    """Full fine-tuning saves transformer, VAE and T5 in one file; every tensor belongs to one of them."""
    variant = "1.5-5b"
    parts = checkpoint(tmp_path / "sat", CONFIGS[variant], single_file=True)
    spec = detect_checkpoint(tmp_path / "sat/transformer/1000/mp_rank_00_model_states.pt")
    assert spec.components.keys() == {"transformer", "vae", "text_encoder"}
    assert (spec.variant, spec.unknown_tensors) == (variant, ())

    plan = plan_conversion(tmp_path / "sat", base=tiny.write(tmp_path / "base", variant))
    assert not plan.missing
    loaded = model_folder.load(plan.write_folder(tmp_path / "model"))
    expected = to_internal(parts["conditioner.embedders.0.transformer."], TRANSFORMERS_KEYMAP)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.text_encoder.state_dict().items())
    qkv = parts["model.diffusion_model."]["transformer.layers.0.attention.query_key_value.weight"]
    assert torch.equal(loaded.transformer.blocks[0].attention.qkv.weight, qkv)
