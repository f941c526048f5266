"""Pairs of networks of this package and diffusers with the same random weights, and inputs for both.

All weights are random, including those that training initializes to zero or one, so that every weight affects the
compared results; they preserve the scale of activations. Both networks share memory if their layouts agree.

Axes: b batch, c latent channels, t latent frames, h w latent size.
"""

import copy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.state_dict.key_rules import to_external
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.position import Positions, positions_for
from cogvideox.vae.config import VAEConfig
from cogvideox.vae.inference.sliced import use_channels_last_weights
from cogvideox.vae.model import CausalVAE

HAS_DIFFUSERS = find_spec("diffusers") is not None

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TransformerPair:
    """Both transformers and one input: latents [b c t h w], prompt embeddings [b n d] and timesteps [b]."""

    cogvideox: Transformer
    diffusers: Any  # None without diffusers
    latents: Tensor
    text: Tensor
    timestep: Tensor
    positions: Positions
    rope: tuple[Tensor, Tensor] | None

    def predict_with_diffusers(self) -> Tensor:
        """Return diffusers' prediction. As in its pipeline, the rotary tables are computed in advance."""
        values = (self.latents.transpose(1, 2), self.text, self.timestep)
        return self.diffusers(*values, image_rotary_emb=self.rope, return_dict=False)[0].transpose(1, 2)

    def predict(self, **options: Any) -> Tensor:
        """Return this package's prediction. The modulation is computed in the call, as in diffusers."""
        return self.cogvideox(self.latents, self.text, self.timestep, positions=self.positions, **options)


def transformers(
    config: TransformerConfig,
    size: tuple[int, int, int],
    *,
    batch: int = 2,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TransformerPair:
    """Build both transformers of a config, and inputs for latents of `size` (frames, height, width)."""
    generator = torch.Generator(device).manual_seed(seed)
    cogvideox = build_network(config).requires_grad_(False)
    state = randomize(to_external(cogvideox.state_dict(), diffusers_keymap(config)), generator, dtype)
    diffusers = _diffusers_transformer(config, size, state) if HAS_DIFFUSERS else None
    load_strict(cogvideox, state, where="random weights", rules=diffusers_keymap(config))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return TransformerPair(
        cogvideox,
        diffusers,
        random(batch, config.in_channels, *size),
        random(batch, config.max_text_seq_length, config.text_embed_dim),
        torch.full((batch,), 500, device=device),
        positions_for(config, *size, device=device),
        None if diffusers is None else _diffusers_rope(diffusers, size, device),
    )


def vaes(
    config: VAEConfig, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CausalVAE, Any]:
    """Build both VAEs of a config. The second is None if diffusers is not installed."""
    cogvideox, diffusers = build_network(config).requires_grad_(False), None
    shapes = to_external(cogvideox.state_dict(), diffusers_keymap(config))
    state = randomize(shapes, torch.Generator(device).manual_seed(seed), dtype)
    if HAS_DIFFUSERS:
        from diffusers import AutoencoderKLCogVideoX

        with torch.device("meta"):
            diffusers = AutoencoderKLCogVideoX.from_config(config.to_diffusers()).eval().requires_grad_(False)
        diffusers.load_state_dict(state, assign=True)
    load_strict(cogvideox, state, where="random weights", rules=diffusers_keymap(config))
    if device == "cpu":
        use_channels_last_weights(cogvideox)  # as `load_network` does
    return cogvideox, diffusers


def randomize(meta: dict[str, Tensor], generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return random values for a state dict.

    Matrices preserve the scale of their input. Vectors are small, or around one if they are factors: norm weights, and
    biases of the convolutions that scale a norm of the VAE.
    """

    def random(name: str, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, device=generator.device)
        if like.ndim > 1:
            return noise / (1 if "pos_embedding" in name else like[0].numel() ** 0.5)
        return 0.3 * noise + (1.0 if name.endswith(("weight", "conv_y.conv.bias")) else 0.0)

    return {name: random(name, like).to(dtype) for name, like in meta.items()}


def share_weights(network: Transformer) -> Transformer:
    """Return another instance of a network that shares its weights."""
    other = build_network(network.config).requires_grad_(False)
    other.load_state_dict(network.state_dict(), assign=True)
    return other


def compiled_blocks(network: Network, blocks: str, mode: str | None = None) -> Network:
    """Return a copy of a network that shares its weights, with compiled blocks; equal blocks are compiled once."""
    other = copy.copy(network)
    other._modules = dict(network._modules)
    other._modules[blocks] = nn.ModuleList(_compiled(block, mode) for block in network.get_submodule(blocks))
    return other


def _compiled(block: nn.Module, mode: str | None) -> nn.Module:
    other = copy.copy(block)
    other.compile(fullgraph=True, dynamic=False, mode=mode)
    return other


def predict_in_float32(pair: TransformerPair) -> Tensor:
    """Return diffusers' prediction in float32 for the first input of the batch; without diffusers, this package's."""
    first: dict[str, Any] = {name: getattr(pair, name)[:1].float() for name in ("latents", "text")}
    first["timestep"] = pair.timestep[:1]
    network = pair.cogvideox if pair.diffusers is None else pair.diffusers
    state = {name: value.float() for name, value in network.state_dict().items()}
    if pair.diffusers is None:
        cogvideox = build_network(pair.cogvideox.config).requires_grad_(False)
        cogvideox.load_state_dict(state, assign=True)
        return replace(pair, cogvideox=cogvideox, **first).predict()
    diffusers = _diffusers_transformer(pair.cogvideox.config, tuple(pair.latents.shape[2:]), state)
    return replace(pair, diffusers=diffusers, **first).predict_with_diffusers()


def _diffusers_transformer(config: TransformerConfig, size: tuple[int, int, int], state: dict[str, Tensor]) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    with torch.device("meta"):
        diffusers = CogVideoXTransformer3DModel.from_config(config.to_diffusers()).eval().requires_grad_(False)
    diffusers.load_state_dict(state, assign=True)
    if not config.use_rotary_positional_embeddings:  # not a weight but a table computed by diffusers
        embed, (t, h, w) = diffusers.patch_embed, size
        embed.sample_frames, embed.sample_height, embed.sample_width = 4 * t - 3, h, w
        table = embed._get_positional_embeddings(h, w, 4 * t - 3)
        embed.pos_embedding = table.to(state["patch_embed.text_proj.weight"])
    return diffusers


def _diffusers_rope(diffusers: Any, size: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor] | None:
    if not diffusers.config.use_rotary_positional_embeddings:
        return None
    t, h, w = size
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline

    pipeline = CogVideoXPipeline(None, None, None, diffusers, CogVideoXDDIMScheduler())
    return pipeline._prepare_rotary_positional_embeddings(8 * h, 8 * w, t, torch.device(device))
