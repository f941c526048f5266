"""Pairs of networks, ours and diffusers', with the same random weights, and inputs for both.

All weights are random, including those that training initializes to zero or one, so that every weight affects the
compared results; they preserve the scale of activations. Both networks share memory where their layouts agree.

Axes: b batch, c latent channels, t latent frames, h w latent size.
"""

import copy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.state_dict.keymap import to_external
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import Positions, positions_for
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.model import CausalVAE

HAS_DIFFUSERS = find_spec("diffusers") is not None

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TransformerPair:
    """Both transformers and one input: latents [b c t h w], prompt embeddings [b n d] and timesteps [b]."""

    ours: Transformer
    theirs: Any  # None without diffusers
    latents: Tensor
    text: Tensor
    timestep: Tensor
    positions: Positions
    rope: tuple[Tensor, Tensor] | None

    def predict_theirs(self) -> Tensor:
        """Diffusers' prediction, called as by its pipeline, which also computes rotary tables once."""
        values = (self.latents.transpose(1, 2), self.text, self.timestep)
        return self.theirs(*values, image_rotary_emb=self.rope, return_dict=False)[0].transpose(1, 2)

    def predict_ours(self, **options: Any) -> Tensor:
        """Our prediction; the modulation is computed in the call, as in diffusers."""
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
    """Both transformers of a config, and inputs for latents of `size` (frames, height, width)."""
    generator = torch.Generator(device).manual_seed(seed)
    ours = build_network(config).requires_grad_(False)
    state = randomize(to_external(ours.state_dict(), diffusers_keymap(config)), generator, dtype)
    theirs = _theirs(config, size, state) if HAS_DIFFUSERS else None
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
        None if theirs is None else _their_rope(theirs, size, device),
    )


def vaes(
    config: VAEConfig, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CausalVAE, Any]:
    """Both VAEs of a config; that of diffusers is None without diffusers."""
    ours, theirs = build_network(config).requires_grad_(False), None
    shapes = to_external(ours.state_dict(), diffusers_keymap(config))
    state = randomize(shapes, torch.Generator(device).manual_seed(seed), dtype)
    if HAS_DIFFUSERS:
        from diffusers import AutoencoderKLCogVideoX

        with torch.device("meta"):
            theirs = AutoencoderKLCogVideoX.from_config(config.to_diffusers()).eval().requires_grad_(False)
        theirs.load_state_dict(state, assign=True)
    load_strict(ours, state, where="random weights", rules=diffusers_keymap(config))
    return ours, theirs


def randomize(meta: dict[str, Tensor], generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random values for a state dict.

    Matrices preserve the scale of their input. Vectors are small, or around one where they multiply: norm weights, and
    biases of the convolutions that scale a norm of the VAE.
    """

    def draw(name: str, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, device=generator.device)
        if like.ndim > 1:
            return noise / (1 if "pos_embedding" in name else like[0].numel() ** 0.5)
        return 0.3 * noise + (1.0 if name.endswith(("weight", "conv_y.conv.bias")) else 0.0)

    return {name: draw(name, like).to(dtype) for name, like in meta.items()}


def twin(network: Transformer) -> Transformer:
    """Another instance of a network that shares its weights."""
    other = build_network(network.config).requires_grad_(False)
    other.load_state_dict(network.state_dict(), assign=True)
    return other


def compiled_blocks(network: Network, blocks: str, mode: str | None = None) -> Network:
    """A copy of a network that shares its weights, with compiled blocks; equal blocks are compiled once."""
    other = copy.copy(network)
    other._modules = dict(network._modules)
    other._modules[blocks] = nn.ModuleList(_compiled(block, mode) for block in network.get_submodule(blocks))
    return other


def _compiled(block: nn.Module, mode: str | None) -> nn.Module:
    other = copy.copy(block)
    other.compile(fullgraph=True, dynamic=False, mode=mode)
    return other


def in_float32(pair: TransformerPair) -> Tensor:
    """The prediction of diffusers, or else of this package, in float32 for the first input of the batch."""
    first: dict[str, Any] = {name: getattr(pair, name)[:1].float() for name in ("latents", "text")}
    first["timestep"] = pair.timestep[:1]
    network = pair.ours if pair.theirs is None else pair.theirs
    state = {name: value.float() for name, value in network.state_dict().items()}
    if pair.theirs is None:
        ours = build_network(pair.ours.config).requires_grad_(False)
        ours.load_state_dict(state, assign=True)
        return replace(pair, ours=ours, **first).predict_ours()
    theirs = _theirs(pair.ours.config, tuple(pair.latents.shape[2:]), state)
    return replace(pair, theirs=theirs, **first).predict_theirs()


def _theirs(config: TransformerConfig, size: tuple[int, int, int], state: dict[str, Tensor]) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    with torch.device("meta"):
        theirs = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval().requires_grad_(False)
    theirs.load_state_dict(state, assign=True)
    if not config.use_rotary_positional_embeddings:  # not a weight but a table computed by diffusers
        embed, (t, h, w) = theirs.patch_embed, size
        embed.sample_frames, embed.sample_height, embed.sample_width = 4 * t - 3, h, w
        table = embed._get_positional_embeddings(h, w, 4 * t - 3)
        embed.pos_embedding = table.to(state["patch_embed.text_proj.weight"])
    return theirs


def _their_rope(theirs: Any, size: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor] | None:
    if not theirs.config.use_rotary_positional_embeddings:
        return None
    t, h, w = size
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    pipeline = CogVideoXPipeline(None, None, None, theirs, CogVideoXDDIMScheduler())
    return pipeline._prepare_rotary_positional_embeddings(8 * h, 8 * w, t, torch.device(device))
