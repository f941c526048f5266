"""The same random weights in this package's networks and in diffusers', and inputs for both.

Every weight is random, also those that training starts at zero or one, so that nothing is left out of an error; they
are drawn such that signals keep their size. Both networks hold the same memory where their layouts agree.

Axes: b batch, c latent channels, t latent frames, h w latent size.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor, nn

from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import Positions, positions_for
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TransformerPair:
    """Both transformers, and one input: latents [b c t h w], text [b n d] and timesteps [b]."""

    ours: Transformer
    theirs: CogVideoXTransformer3DModel
    latents: Tensor
    text: Tensor
    timestep: Tensor
    positions: Positions
    rope: tuple[Tensor, Tensor] | None

    def predict_theirs(self) -> Tensor:
        """As their pipeline calls it; the rotary tables are made once there too."""
        values = (self.latents.transpose(1, 2), self.text, self.timestep)
        return self.theirs(*values, image_rotary_emb=self.rope, return_dict=False)[0].transpose(1, 2)

    def predict_ours(self, **options: Any) -> Tensor:
        """With everything that depends on the timestep computed in the call, as theirs does."""
        return self.ours(self.latents, self.text, self.timestep, positions=self.positions, **options)


def transformers(
    config: TransformerConfig,
    size: tuple[int, int, int],
    *,
    batch: int = 2,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TransformerPair:
    """Both transformers of a configuration, for latents of `size` (frames, height, width)."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        shapes = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).state_dict()
    state = randomised(shapes, generator, dtype)
    theirs = _theirs(config, size, state)
    ours = build_network(config).requires_grad_(False)
    assert isinstance(ours, Transformer)
    load_strict(ours, state, where="random weights", rules=diffusers_keymap(config))

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return TransformerPair(
        ours,
        theirs,
        draw(batch, config.in_channels, *size),
        draw(batch, config.max_text_seq_length, config.text_embed_dim),
        torch.full((batch,), 500, device=device),
        positions_for(config, *size, device=device),
        _their_rope(theirs, size, device),
    )


def vaes(
    config: VAEConfig, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CausalVAE, AutoencoderKLCogVideoX]:
    """Both VAEs of a configuration."""
    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX.from_config(config.to_diffusers()).eval().requires_grad_(False)
    state = randomised(theirs.state_dict(), torch.Generator(device).manual_seed(seed), dtype)
    theirs.load_state_dict(state, assign=True)
    ours = build_network(config).requires_grad_(False)
    assert isinstance(ours, CausalVAE)
    load_strict(ours, state, where="random weights", rules=diffusers_keymap(config))
    return ours, theirs


def randomised(meta: dict[str, Tensor], generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """Values for a state dict. Matrices keep the size of what goes through them, vectors are small, or about one where
    they multiply: a norm's weight, and the biases of the convolutions that scale a norm of the VAE."""

    def draw(name: str, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, device=generator.device)
        if like.ndim > 1:
            return noise / (1 if "pos_embedding" in name else like[0].numel() ** 0.5)
        return 0.3 * noise + (1.0 if name.endswith(("weight", "conv_y.conv.bias")) else 0.0)

    return {name: draw(name, like).to(dtype) for name, like in meta.items()}


def twin(network: Transformer) -> Transformer:
    """Another network of ours with the same weights, in the same memory."""
    other = build_network(network.config).requires_grad_(False)
    assert isinstance(other, Transformer)
    other.load_state_dict(network.state_dict(), assign=True)
    return other


def compiled_blocks(network: Network, blocks: str, mode: str | None = None) -> Network:
    """Another network around the same weights, each of its blocks compiled: they are equal, so one is compiled."""
    other = copy.copy(network)
    other._modules = dict(network._modules)
    other._modules[blocks] = nn.ModuleList(_compiled(block, mode) for block in network.get_submodule(blocks))
    return other


def _compiled(block: nn.Module, mode: str | None) -> nn.Module:
    other = copy.copy(block)
    other.compile(fullgraph=True, dynamic=False, mode=mode)
    return other


def in_float32(pair: TransformerPair) -> Tensor:
    """What diffusers predicts of the first input of the batch, with every step of the way in float32."""
    state = {name: value.float() for name, value in pair.theirs.state_dict().items()}
    theirs = _theirs(pair.ours.config, tuple(pair.latents.shape[2:]), state)
    first = {name: getattr(pair, name)[:1].float() for name in ("latents", "text")}
    return replace(pair, theirs=theirs, timestep=pair.timestep[:1], **first).predict_theirs()


def _theirs(
    config: TransformerConfig, size: tuple[int, int, int], state: dict[str, Tensor]
) -> CogVideoXTransformer3DModel:
    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval().requires_grad_(False)
    theirs.load_state_dict(state, assign=True)
    if not config.use_rotary_positional_embeddings:  # no weight, but a table of their network
        embed, (t, h, w) = theirs.patch_embed, size
        embed.sample_frames, embed.sample_height, embed.sample_width = 4 * t - 3, h, w
        table = embed._get_positional_embeddings(h, w, 4 * t - 3)
        embed.pos_embedding = table.to(state["patch_embed.text_proj.weight"])
    return theirs


def _their_rope(
    theirs: CogVideoXTransformer3DModel, size: tuple[int, int, int], device: str
) -> tuple[Tensor, Tensor] | None:
    if not theirs.config.use_rotary_positional_embeddings:
        return None
    t, h, w = size
    pipeline = CogVideoXPipeline(None, None, None, theirs, CogVideoXDDIMScheduler())
    return pipeline._prepare_rotary_positional_embeddings(8 * h, 8 * w, t, torch.device(device))
