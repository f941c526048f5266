"""The transformer equals diffusers' `CogVideoXTransformer3DModel` with the same weights and inputs, in float32."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cogvideox.state_dict.key_rules import to_external, to_internal
from cogvideox.transformer.checkpoint_keys import diffusers_keymap
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from cogvideox.transformer.presets import PRESETS

pytest.importorskip("diffusers")

from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    preset: str
    base: tuple[int, int, int]  # video frames and latent height and width of the config
    size: tuple[int, int, int]  # latent frames, height and width of the clip

    def __str__(self) -> str:
        return f"{self.preset}-{'x'.join(map(str, self.size))}"


CASES = [
    Case("2b", base=(9, 8, 12), size=(3, 8, 12)),
    Case("2b", base=(9, 8, 12), size=(2, 14, 6)),
    Case("5b", base=(9, 8, 12), size=(3, 8, 12)),
    Case("5b", base=(9, 8, 12), size=(4, 18, 6)),
    Case("5b", base=(9, 8, 12), size=(1, 6, 10)),
    Case("5b-i2v", base=(9, 8, 12), size=(3, 8, 12)),
    Case("5b-i2v", base=(5, 10, 6), size=(2, 10, 6)),
    Case("1.5-5b", base=(9, 40, 40), size=(2, 8, 12)),
    Case("1.5-5b", base=(9, 40, 40), size=(4, 18, 6)),
    Case("1.5-5b-i2v", base=(9, 40, 40), size=(2, 8, 12)),
    Case("1.5-5b-i2v", base=(9, 40, 40), size=(6, 6, 10)),
]


def small_config(preset: str, base: tuple[int, int, int]) -> TransformerConfig:
    frames, height, width = base
    official = PRESETS[preset]()
    return replace(
        official,
        num_attention_heads=3,
        attention_head_dim=32,
        num_layers=3,
        time_embed_dim=40,
        ofs_embed_dim=official.ofs_embed_dim and 40,
        text_embed_dim=24,
        max_text_seq_length=7,
        sample_frames=frames,
        sample_height=height,
        sample_width=width,
    )


def random_weights(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return random values for all weights, also those initialized to 0 or 1, scaled to keep the activations' scale."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1 and "pos_embedding" not in name:
            return noise / tensor[0].numel() ** 0.5
        is_norm = name.endswith("weight")
        return 0.3 * noise + (1.0 if is_norm else 0.0)

    return {name: draw(name, tensor) for name, tensor in state.items()}


def model_pair(config: TransformerConfig) -> tuple[Transformer, CogVideoXTransformer3DModel]:
    reference = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval()
    reference.load_state_dict(random_weights(reference.state_dict()))
    model = Transformer(config).eval()
    model.load_state_dict(to_internal(reference.state_dict(), diffusers_keymap(config)))
    return model, reference


def random_inputs(config: TransformerConfig, size: tuple[int, int, int], batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, *size, generator=generator)
    text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    inputs = {"latents": latents, "text": text, "timestep": torch.randint(1000, (batch,), generator=generator)}
    return inputs if config.ofs_embed_dim is None else inputs | {"ofs": torch.tensor([2.0] * batch)}


def reference_rope(
    reference: CogVideoXTransformer3DModel, num_frames: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Rotary tables for a latent size, from diffusers' pipeline."""
    pipeline = CogVideoXPipeline(None, None, None, reference, CogVideoXDDIMScheduler())
    return pipeline._prepare_rotary_positional_embeddings(8 * height, 8 * width, num_frames, torch.device("cpu"))


def reference_prediction(reference: CogVideoXTransformer3DModel, inputs: dict[str, Tensor]) -> Tensor:
    dtype = reference.dtype
    rotary = reference.config.use_rotary_positional_embeddings
    prediction = reference(
        hidden_states=inputs["latents"].transpose(1, 2).to(dtype),
        encoder_hidden_states=inputs["text"].to(dtype),
        timestep=inputs["timestep"],
        ofs=inputs.get("ofs"),
        image_rotary_emb=reference_rope(reference, *inputs["latents"].shape[2:]) if rotary else None,
        return_dict=False,
    )[0]
    return prediction.transpose(1, 2)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_predictions_are_equal(case: Case) -> None:
    config = small_config(case.preset, case.base)
    model, reference = model_pair(config)
    inputs = random_inputs(config, case.size)
    expected = reference_prediction(reference, inputs)

    assert relative_error(model(**inputs), expected) <= TOLERANCE

    # With precomputed positions and modulation, as in sampling.
    positions = positions_for(config, *case.size)
    for i, time in enumerate(inputs["timestep"]):
        times = torch.stack((time, 999 - time))
        tables = model.precompute_modulation(times, 2.0 if "ofs" in inputs else None)
        prediction = model(inputs["latents"], inputs["text"], None, positions=positions, modulation=tables[0])
        assert relative_error(prediction[i], expected[i]) <= TOLERANCE


@pytest.mark.parametrize("preset", ["5b", "1.5-5b-i2v"])
def test_gradients_are_equal(preset: str) -> None:
    """Gradients of every weight, for a loss that weights all outputs differently."""
    config = small_config(preset, base=(9, 8, 12))
    model, reference = model_pair(config)
    inputs = random_inputs(config, size=(2, 8, 12))
    expected = reference_prediction(reference, inputs)
    weights = torch.randn_like(expected)

    (expected * weights).sum().backward()
    (model(**inputs) * weights).sum().backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients = to_external(gradients, diffusers_keymap(config))
    for name, parameter in reference.named_parameters():
        # The bias of keys shifts all scores of a query equally, so its gradient is zero up to rounding.
        if "norm_k.bias" not in name and "to_k.bias" not in name:
            assert relative_error(gradients[name], parameter.grad) <= 10 * TOLERANCE, name


@pytest.mark.parametrize("preset", ["2b", "1.5-5b"])
@torch.no_grad()
def test_bfloat16_error_is_at_most_that_of_diffusers(preset: str) -> None:
    config = small_config(preset, base=(9, 8, 12))
    model, reference = model_pair(config)
    inputs = random_inputs(config, size=(2, 8, 12))
    exact = reference_prediction(reference, inputs)
    actual = model.bfloat16()(**inputs | {name: inputs[name].bfloat16() for name in ("latents", "text")})
    assert (actual - exact).norm() <= 1.1 * (reference_prediction(reference.bfloat16(), inputs) - exact).norm()


@pytest.mark.parametrize("preset", ["5b", "1.5-5b"])
def test_rotary_positions_are_equal_at_any_size(preset: str) -> None:
    """Landscape, portrait and square; smaller and larger than the base grid; a single row or column."""
    base = (49, 60, 90) if preset == "5b" else (81, 300, 300)
    config = small_config(preset, base)
    with torch.device("meta"):
        reference = CogVideoXTransformer3DModel.from_config(config.to_diffusers())
    for height, width in [(60, 90), (90, 60), (96, 170), (32, 32), (2, 90), (60, 2), (46, 82), (100, 100), (2, 2)]:
        for num_frames in (2, 14, 42):
            cos, sin = reference_rope(reference, num_frames, height, width)
            rope = positions_for(config, num_frames, height, width).rope
            text, video = rope.split((config.max_text_seq_length, len(cos)))
            assert torch.equal(text, torch.tensor([1.0, 0.0]).expand_as(text))
            torch.testing.assert_close(video, torch.stack((cos[:, ::2], sin[:, ::2]), -1), rtol=0, atol=2e-5)


def test_sinusoidal_positions_are_equal_at_any_size() -> None:
    config = small_config("2b", base=(49, 60, 90))
    reference = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).patch_embed
    for num_frames, height, width in [(13, 60, 90), (3, 90, 60), (1, 2, 2), (7, 32, 46)]:
        expected = reference._get_positional_embeddings(height, width, 4 * num_frames - 3)[0]
        actual = positions_for(config, num_frames, height, width).sincos
        torch.testing.assert_close(actual, expected.float(), rtol=0, atol=1e-6)


PARAMETERS = {
    "2b": 1_693_783_872,
    "5b": 5_570_283_072,
    "5b-i2v": 5_625_087_552,
    "1.5-5b": 5_570_676_352,
    "1.5-5b-i2v": 5_571_594_880,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_of_official_models_are_equal(preset: str) -> None:
    config = PRESETS[preset]()
    with torch.device("meta"):
        expected = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).state_dict()
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[preset]

    external = to_external(model.state_dict(), diffusers_keymap(config))
    assert {name: w.shape for name, w in external.items()} == {name: w.shape for name, w in expected.items()}
    internal = to_internal(expected, diffusers_keymap(config))
    assert {name: w.shape for name, w in internal.items()} == {name: w.shape for name, w in model.state_dict().items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_configs_are_equal(preset: str) -> None:
    """Every stored key is read and written."""
    config = small_config(preset, base=(9, 8, 12))
    reference = CogVideoXTransformer3DModel.from_config(config.to_diffusers())
    stored = dict(reference.config)
    assert TransformerConfig.from_diffusers(stored) == config
    written = config.to_diffusers()
    assert written.pop("_class_name") == type(reference).__name__
    assert written == {name: value for name, value in stored.items() if not name.startswith("_")}


@pytest.mark.slow
@torch.no_grad()
def test_full_size_2b_is_equal_on_one_latent_frame() -> None:
    """With 1.7 billion random weights in float32 (6.8 GB), so only one model is in memory at a time."""
    config = PRESETS["2b"]()
    with torch.device("meta"):
        reference = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval()
        model = Transformer(config).eval()
    inputs = random_inputs(config, size=(1, 60, 90), batch=1)

    state = random_weights(reference.state_dict())
    reference.load_state_dict(state, assign=True)
    # Sinusoidal positions are not in the state dict.
    reference.patch_embed.pos_embedding = reference.patch_embed._get_positional_embeddings(60, 90, 49)
    expected = reference_prediction(reference, inputs)
    del reference

    model.load_state_dict(to_internal(state, diffusers_keymap(config)), assign=True)
    del state
    assert relative_error(model(**inputs), expected) <= TOLERANCE
