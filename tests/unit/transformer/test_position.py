"""Properties of positions, and errors. tests/parity compares values with diffusers."""

from dataclasses import replace

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.transformer.position import check_learned_positions, positions_for, rotate, token_grid
from cogvideox.transformer.presets import PRESETS


def test_the_position_rules_agree_at_the_base_size():
    config = PRESETS["5b"]()
    scaled = positions_for(config, 13, 60, 90, rule="resize_crop").rope
    sliced = positions_for(config, 13, 60, 90, rule="slice").rope
    torch.testing.assert_close(scaled, sliced, rtol=0, atol=1e-5)
    assert not torch.allclose(
        positions_for(config, 13, 30, 44, rule="resize_crop").rope, positions_for(config, 13, 30, 44, rule="slice").rope
    )


def test_rotary_scores_depend_on_relative_position_only():
    """The defining property of RoPE: shifting query and key equally does not change their product."""
    config = replace(PRESETS["5b"](), attention_head_dim=32)
    rope = positions_for(config, 4, 8, 12, num_text=0, rule="slice").rope
    q, k = torch.randn(2, 1, 1, 1, 32).expand(2, 1, len(rope), 1, 32)
    scores = torch.einsum("bnkc,bmkc->nm", rotate(q, rope), rotate(k, rope)).view(4, 4, 6, 4, 4, 6)
    for axis in range(3):
        shifted = scores.narrow(axis, 1, scores.shape[axis] - 1).narrow(axis + 3, 1, scores.shape[axis] - 1)
        original = scores.narrow(axis, 0, scores.shape[axis] - 1).narrow(axis + 3, 0, scores.shape[axis] - 1)
        torch.testing.assert_close(shifted, original, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0, 0, 0, 0, 0, 0], scores[0, 0, 0, 1, 1, 1])


def test_rotation_keeps_norms_and_text():
    rope = positions_for(replace(PRESETS["5b"](), max_text_seq_length=5), 1, 4, 4).rope
    x = torch.randn(2, len(rope), 3, 64)
    rotated = rotate(x, rope)
    assert torch.equal(rotated[:, :5], x[:, :5])
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), rope).dtype == torch.bfloat16


def test_sinusoidal_vectors_of_all_tokens_differ():
    sincos = positions_for(replace(PRESETS["2b"](), max_text_seq_length=3), 5, 8, 12).sincos
    assert not sincos[:3].any()
    assert torch.cdist(sincos[3:], sincos[3:]).add(10 * torch.eye(5 * 24)).min() > 0.1


def test_every_multiple_of_the_patch_size_has_positions():
    for preset, frames in (("5b", 7), ("2b", 7), ("1.5-5b", 8)):
        config = replace(PRESETS[preset](), num_attention_heads=1)
        for height, width in ((2, 2), (2, 400), (302, 2), (62, 88)):
            positions = positions_for(config, frames, height, width, num_text=4)
            table = positions.sincos if positions.rope is None else positions.rope
            t, h, w = token_grid(config, frames, height, width)
            assert len(table) == 4 + t * h * w
            assert torch.isfinite(table).all()


@pytest.mark.parametrize(
    ("preset", "size", "message"),
    [
        ("5b", (3, 61, 90), "latent height 61 is not a multiple of the patch size 2; the nearest is 60"),
        ("5b", (3, 60, 1), "latent width 1 "),
        ("1.5-5b", (3, 60, 90), "latent frames 3 "),
        ("5b", (0, 60, 90), "latent frames 0 "),
        ("5b-i2v", (13, 62, 90), "are for 60x90 and at most 13 latent frames"),
        ("5b-i2v", (14, 60, 90), "are for 60x90 and at most 13 latent frames"),
    ],
)
def test_invalid_sizes_are_rejected(preset, size, message):
    with pytest.raises(UserError, match=message):
        positions_for(PRESETS[preset](), *size)


def test_position_rule_without_rotary_positions_is_rejected():
    with pytest.raises(UserError, match="'slice' applies to rotary positions"):
        positions_for(PRESETS["2b"](), 1, 2, 2, rule="slice")


def test_learned_positions_allow_shorter_clips_but_one_text_length():
    config = PRESETS["5b-i2v"]()
    check_learned_positions(config, (4, 30, 45), 226)
    with pytest.raises(UserError, match="text of 224 tokens"):
        check_learned_positions(config, (13, 30, 45), 224)
