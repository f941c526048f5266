"""The transformer against diffusers' `CogVideoXTransformer3DModel`: same weights, same inputs, in float32."""

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from cogvideox.transformer.config import PRESETS, TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import positions_for
from cogvideox.transformer.weights import keymap
from cogvideox.weights.keymap import to_ours, to_theirs

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


def small(preset: str, base: tuple[int, int, int]) -> TransformerConfig:
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


def randomise(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Every weight at random, also those that training starts at zero or one, such that signals keep their size."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1 and "pos_embedding" not in name:
            return noise / tensor[0].numel() ** 0.5
        is_norm = name.endswith("weight")
        return 0.3 * noise + (1.0 if is_norm else 0.0)

    return {name: draw(name, tensor) for name, tensor in state.items()}


def pair(config: TransformerConfig) -> tuple[Transformer, CogVideoXTransformer3DModel]:
    theirs = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval()
    theirs.load_state_dict(randomise(theirs.state_dict()))
    ours = Transformer(config).eval()
    ours.load_state_dict(to_ours(theirs.state_dict(), keymap(config)))
    return ours, theirs


def inputs(config: TransformerConfig, size: tuple[int, int, int], batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, *size, generator=generator)
    text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    given = {"latents": latents, "text": text, "timestep": torch.randint(1000, (batch,), generator=generator)}
    return given if config.ofs_embed_dim is None else given | {"ofs": torch.tensor([2.0] * batch)}


def reference(theirs: CogVideoXTransformer3DModel, given: dict[str, Tensor]) -> Tensor:
    """Their prediction, with rotary tables as their pipeline makes them."""
    _, _, num_frames, height, width = given["latents"].shape
    rope = None
    if theirs.config.use_rotary_positional_embeddings:
        pipeline = CogVideoXPipeline(None, None, None, theirs, CogVideoXDDIMScheduler())
        pixels = (8 * height, 8 * width)
        rope = pipeline._prepare_rotary_positional_embeddings(*pixels, num_frames, torch.device("cpu"))
    prediction = theirs(
        hidden_states=given["latents"].transpose(1, 2),
        encoder_hidden_states=given["text"],
        timestep=given["timestep"],
        ofs=given.get("ofs"),
        image_rotary_emb=rope,
        return_dict=False,
    )[0]
    return prediction.transpose(1, 2)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_prediction(case: Case) -> None:
    config = small(case.preset, case.base)
    ours, theirs = pair(config)
    given = inputs(config, case.size)

    expected = reference(theirs, given)

    assert relative_error(ours(**given), expected) <= TOLERANCE
