"""Laws of the transformer's variants: where they equal the expert transformer, and what they keep of it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cogvideox.errors import UserError
from cogvideox.pretrained.offload.transformer_cost import BatchShape, transformer_flops, transformer_parameters
from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.training.diffusion.parameter_matching import match_parameters
from cogvideox.transformer.attention import StreamLayout, dense_attention
from cogvideox.transformer.checkpoint_keys import diffusers_keymap
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.lora.inject import lora_targets
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.variants.factorized_attention import attention_of_block

EXPERT = TransformerConfig(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    time_embed_dim=24,
    text_embed_dim=12,
    max_text_seq_length=5,
    sample_frames=9,
    sample_height=4,
    sample_width=6,
    use_rotary_positional_embeddings=True,
)
VARIANTS = {
    "factorized": replace(EXPERT, attention="factorized"),
    "shared": replace(EXPERT, separate_weights="none"),
    "separate": replace(EXPERT, separate_weights="all"),
    "learned": replace(EXPERT, use_rotary_positional_embeddings=False, use_learned_positional_embeddings=True),
    "narrow": replace(EXPERT, ffn_dim=40),
}


def random_model(config: TransformerConfig, seed: int = 0) -> Transformer:
    """Return a model without zero weights, as after training."""
    torch.manual_seed(seed)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(frames: int = 3, height: int = 4, width: int = 6, batch: int = 2):
    torch.manual_seed(1)
    latents = torch.randn(batch, EXPERT.in_channels, frames, height, width)
    return latents, torch.randn(batch, 5, EXPERT.text_embed_dim), torch.randint(1000, (batch,))


def heads(num_tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(2, num_tokens, 2, 16) for _ in range(3)]


@pytest.mark.parametrize(("block", "grid"), [(0, (1, 2, 3)), (1, (4, 1, 1))])
def test_factorized_attention_is_full_attention_within_one_frame_or_one_position(block, grid):
    layout = StreamLayout((5, grid[0] * grid[1] * grid[2]), grids=(grid,))
    qkv = heads(sum(layout.spans))
    attended = attention_of_block("factorized", block, dense_attention)(*qkv, layout)
    torch.testing.assert_close(attended, dense_attention(*qkv, layout))


@pytest.mark.parametrize("block", [0, 1])
def test_factorized_attention_equals_masked_full_attention(block):
    """A video token attends to the text and to its frame (even blocks) or its position (odd blocks)."""
    grid, num_text = (3, 2, 2), 5
    layout = StreamLayout((num_text, 12), grids=(grid,))
    q, k, v = heads(17)
    token = torch.arange(12)
    group = token // 4 if block == 0 else token % 4
    mask = torch.ones(17, 17, dtype=torch.bool)
    mask[num_text:, num_text:] = group[:, None] == group
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)
    attended = attention_of_block("factorized", block, dense_attention)(q, k, v, layout)
    torch.testing.assert_close(attended, expected)


def test_factorized_blocks_carry_information_between_all_tokens():
    """Two blocks connect tokens of different frames and positions; one block does not."""
    (latents, text, timestep), model = inputs(batch=1), random_model(VARIANTS["factorized"])
    changed = latents.clone()
    changed[:, :, 2, 2:, 4:] += 100.0

    def difference(config: TransformerConfig) -> torch.Tensor:
        same_weights = Transformer(config)
        same_weights.load_state_dict(model.state_dict(), strict=False)
        return (
            (same_weights(changed, text, timestep) - same_weights(latents, text, timestep))[0, :, 0, :2, :2].abs().max()
        )

    assert difference(VARIANTS["factorized"]) > 1e-4
    one_block = replace(VARIANTS["factorized"], num_layers=1)
    assert difference(one_block) == 0


def test_shared_modulation_equals_expert_modulation_with_copied_weights():
    shared, expert = random_model(VARIANTS["shared"]), Transformer(EXPERT)
    state = shared.state_dict()
    for name in [name for name in state if ".modulation." in name and name.startswith("blocks")]:
        state[name] = state[name].unflatten(0, (6, 1, -1)).expand(-1, 2, *(-1,) * state[name].ndim).flatten(0, 2)
    expert.load_state_dict(state)
    torch.testing.assert_close(shared(*inputs()), expert(*inputs()))


def test_separate_streams_with_equal_weights_equal_the_expert_transformer():
    expert, separate = random_model(EXPERT), Transformer(VARIANTS["separate"])
    state = expert.state_dict()
    for name in separate.state_dict():
        if ".text." in name:
            state[name] = state[name.replace(".text.", ".")]
    separate.load_state_dict(state)
    torch.testing.assert_close(separate(*inputs()), expert(*inputs()))


def test_text_weights_change_the_text_stream_only():
    """In the last block, the text's MLP has no influence on the video."""
    separate = random_model(VARIANTS["separate"])
    expected = separate(*inputs())
    torch.nn.init.zeros_(separate.blocks[-1].text.mlp.out.weight)
    torch.testing.assert_close(separate(*inputs()), expected)
    torch.nn.init.zeros_(separate.blocks[0].text.mlp.out.weight)
    assert not torch.allclose(separate(*inputs()), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_variants_equal_separate_clips(name):
    model = random_model(VARIANTS[name])
    sizes = [(3, 4, 6), (1, 4, 6), (1, 4, 6), (2, 4, 6)]
    clips = [inputs(*size, batch=1) for size in sizes]
    packed = model.forward_packed(
        [latents[0] for latents, _, _ in clips],
        torch.cat([text for _, text, _ in clips]),
        torch.cat([timestep for _, _, timestep in clips]),
    )
    for output, clip in zip(packed, clips, strict=True):
        torch.testing.assert_close(output, model(*clip)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_precomputed_modulation_equals_computed_modulation(name):
    model = random_model(VARIANTS[name])
    latents, text, timestep = inputs()
    modulation = model.precompute_modulation(timestep)
    torch.testing.assert_close(model(latents, text, None, modulation=modulation), model(latents, text, timestep))


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_round_trip_through_the_names_of_diffusers(name):
    config = VARIANTS[name]
    state, rules = random_model(config).state_dict(), diffusers_keymap(config)
    restored = to_internal(to_external(state, rules), rules)
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[key], state[key]) for key in state)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_written_only_if_they_are_set(name):
    config, standard = VARIANTS[name].to_diffusers(), EXPERT.to_diffusers()
    assert TransformerConfig.from_diffusers(config) == VARIANTS[name]
    assert config["_class_name"] != "CogVideoXTransformer3DModel"  # so that diffusers refuses the file
    assert standard["_class_name"] == "CogVideoXTransformer3DModel"
    assert not {"attention", "separate_weights", "ffn_dim"} & standard.keys()


def test_lora_targets_include_both_streams():
    targets = lora_targets(random_model(VARIANTS["separate"]))
    assert {"transformer_blocks.0.attn1.to_q", "transformer_blocks.0.text.attn1.to_q"} <= targets.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_counted_parameters(name):
    num_parameters = sum(parameter.numel() for parameter in random_model(VARIANTS[name]).parameters())
    assert transformer_parameters(VARIANTS[name]).total == num_parameters


def test_flops_of_factorized_attention():
    """Of 3 frames of 6 tokens and 5 text tokens: pairs of tokens in an even block, then in an odd one."""
    clip = BatchShape(2, 3, 4, 6, 5)
    pairs = (5 * 23 + 18 * (5 + 6)) + (5 * 23 + 18 * (5 + 3))
    linear, attention = transformer_flops(VARIANTS["factorized"], clip)
    assert attention == 2 * 4 * pairs * EXPERT.width
    assert linear == transformer_flops(EXPERT, clip)[0]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("heads", [4, 5])
def test_variants_of_equal_size(name, heads):
    """At the sizes of ablations, 1 to 2 million parameters."""
    sizes = {"num_attention_heads": heads, "attention_head_dim": 32, "num_layers": 6, "time_embed_dim": 128}
    reference = replace(EXPERT, **sizes, max_text_seq_length=60, sample_height=8, sample_width=8)
    variant = match_parameters(replace(VARIANTS[name], **sizes, max_text_seq_length=60, ffn_dim=None), reference)
    numbers = [transformer_parameters(config).total for config in (variant, reference)]
    assert numbers[0] == pytest.approx(numbers[1], rel=2e-3)
    assert 0.5 < variant.mlp_width / (4 * variant.width) < 2
    assert match_parameters(reference, reference) == reference


def test_sizes_that_cannot_be_matched():
    reference = replace(EXPERT, text_embed_dim=4096)
    with pytest.raises(UserError, match="choose a smaller attention_head_dim"):
        match_parameters(replace(EXPERT, attention_head_dim=512, text_embed_dim=4096), reference)
