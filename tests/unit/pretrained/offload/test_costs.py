"""Parameter, FLOP and activation estimates match the networks, run on the meta device at the official sizes."""

from dataclasses import replace

import pytest
import torch

from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.offload.transformer_cost import (
    BatchShape,
    text_activations,
    text_parameters,
    transformer_activations,
    transformer_flops,
    transformer_parameters,
)
from cogvideox.pretrained.offload.vae_cost import VAESlicing, vae_activations, vae_flops, vae_parameters
from cogvideox.text.config import T5Config
from cogvideox.transformer.position import positions_for
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.config import VAEConfig
from tests import tiny
from tests.peak_memory import PeakMemory


def is_tight_bound(expected: int, measured: int) -> bool:
    """Return whether an estimate is an upper bound and at most 30% too large."""
    return 0.95 * measured <= expected <= 1.3 * measured


def num_parameters(config) -> int:
    return sum(tensor.numel() for tensor in build_network(config).state_dict().values())


@pytest.mark.parametrize("config", [*(preset() for preset in PRESETS.values()), tiny.transformer("1.5-5b-i2v")])
def test_transformer_parameter_count(config):
    assert transformer_parameters(config).total == num_parameters(config)


@pytest.mark.parametrize("config", [VAEConfig(), tiny.vae_config("2b")])
def test_vae_parameter_count(config):
    assert vae_parameters(config) == num_parameters(config)


def test_text_encoder_parameter_count():
    assert text_parameters(T5Config()).total == num_parameters(T5Config())


def test_flops_match_the_counter_of_torch():
    """Expected, counted with diffusers: 240.0 and 664.4 TFLOP per pass with guidance, and 149 TFLOP to encode."""
    clip = BatchShape(2, 13, 60, 90, 226)
    assert sum(transformer_flops(PRESETS["2b"](), clip)) == pytest.approx(240.0e12, rel=1e-3)
    assert sum(transformer_flops(PRESETS["5b"](), clip)) == pytest.approx(664.4e12, rel=1e-3)
    assert vae_flops(VAEConfig(), 13, 60, 90, decoder=False) == pytest.approx(149.0e12, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("preset", "size", "variant"),
    [
        ("2b", (13, 60, 90), {}),
        ("5b", (13, 60, 90), {}),
        ("1.5-5b", (22, 96, 170), {}),
        ("2b", (13, 60, 90), {"attention": "factorized"}),
        ("2b", (13, 60, 90), {"separate_weights": "all"}),
        ("2b", (13, 60, 90), {"ffn_dim": 1920}),
    ],
)
def test_transformer_activation_memory(preset, size, variant, dtype):
    config = replace(PRESETS[preset](), num_layers=2, **variant)
    model = build_network(config).to(dtype)
    latents = torch.empty(2, config.in_channels, *size, device="meta", dtype=dtype)
    text = torch.empty(2, 226, config.text_embed_dim, device="meta", dtype=dtype)

    def attend(q, k, v, layout):  # like fused kernels, which store no scores
        return v.new_empty(q.shape)

    with torch.inference_mode(), PeakMemory(*model.parameters()) as memory:
        modulation = model.precompute_modulation(torch.empty(50, device="meta"))
        positions = positions_for(config, *size, num_text=226, device="meta")
        model(latents, text, None, positions=positions, modulation=modulation[0], attend=attend)
    expected = transformer_activations(config, BatchShape(2, *size, 226), 50, str(dtype).removeprefix("torch."))
    assert expected == pytest.approx(memory.peak, rel=0.08)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_text_encoder_activation_memory(dtype):
    model = build_network(replace(T5Config(), num_layers=2)).to(dtype)
    ids = torch.zeros(1, 226, device="meta", dtype=torch.long)
    with torch.inference_mode(), PeakMemory(*model.parameters()) as memory:
        model(ids)
    expected = text_activations(model.config, 226, str(dtype).removeprefix("torch."))
    assert expected == pytest.approx(memory.peak, rel=0.1)


@pytest.mark.parametrize("strips", [1, 2, 8])
@pytest.mark.parametrize("num_latents", [1, 3, 5, 7])
def test_vae_decoder_activation_memory(num_latents, strips):
    vae = build_network(VAEConfig())
    z = torch.empty(1, 16, num_latents, 24, 32, device="meta")
    with torch.inference_mode(), PeakMemory(*vae.parameters()) as memory:
        for _ in vae.decode_stream(z, strips=strips):
            pass
    num_values, host = vae_activations(vae.config, num_latents, 24, 32, VAESlicing(strips), decoder=True)
    assert host == 0 and is_tight_bound(num_values * 4, memory.peak)


@pytest.mark.parametrize("strips", [1, 4])
@pytest.mark.parametrize("num_frames", [1, 9, 17, 25])
def test_vae_encoder_activation_memory(num_frames, strips):
    vae = build_network(VAEConfig())
    video = torch.empty(1, 3, num_frames, 192, 256, device="meta")
    with torch.inference_mode(), PeakMemory(*vae.parameters()) as memory:
        vae.encode(video, strips=strips)
    num_values, _ = vae_activations(vae.config, (num_frames + 3) // 4, 24, 32, VAESlicing(strips), decoder=False)
    assert is_tight_bound(num_values * 4, memory.peak + video.nbytes)


@pytest.mark.parametrize("strips", [1, 4, 8])
@pytest.mark.parametrize("num_frames", [17, 49])
def test_whole_clip_activation_memory(num_frames, strips):
    vae = build_network(VAEConfig())
    video = torch.empty(1, 3, num_frames, 192, 256, device="meta")
    with torch.inference_mode(), PeakMemory(*vae.parameters()) as memory:
        vae.encode(video, norm_statistics="clip", strips=strips)
    slicing = VAESlicing(strips)
    num_values, _ = vae_activations(
        vae.config, (num_frames + 3) // 4, 24, 32, slicing, decoder=False, norm_statistics="clip"
    )
    measured = memory.peak + video.nbytes
    print(f"{num_frames} frames, {strips} strips: planned {num_values * 4 / measured:.2f} of the measured peak")
    assert 0.95 * measured <= num_values * 4 <= 1.35 * measured
