"""The expert transformer (paper section 2.2).

Text and video are one stream of tokens from the first projection to the last norm, with the same matrices, norms and
attention for both. Only the modulation by the timestep distinguishes them (expert adaptive LayerNorm). The baselines of
the paper's ablations are in `transformer.variants`.

Axes: b batch; c t h w latent channels, frames, height, width; n tokens, text first, then video with time slowest;
d width; e time embedding; s timesteps, or clips of a packed row.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.linear import Linear
from cogvideox.transformer.attention import (
    Attend,
    StreamLayout,
    dense_attention,
    packed_attention,
    packed_layout,
)
from cogvideox.transformer.block import TransformerBlock, by_row
from cogvideox.transformer.config import PositionRule, TransformerConfig
from cogvideox.transformer.modulation import AdaptiveNorm, FinalModulation, Modulation, Spans
from cogvideox.transformer.position import (
    Positions,
    check_learned_positions,
    concatenate_positions,
    positions_for,
    token_grid,
)
from cogvideox.transformer.timestep_embedding import ScalarEmbedding, Timestep
from cogvideox.transformer.variants.factorized_attention import attention_of_block
from cogvideox.transformer.variants.separate_streams import SeparateStreamsBlock


class Transformer(nn.Module):
    """The expert transformer, which predicts the velocity from noised latents, a prompt embedding and a timestep."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width

        self.text_in = Linear(config.text_embed_dim, width)
        has_bias = config.patch_bias or config.patch_size_t is not None
        self.patch_in = Linear(config.in_channels * config.patch_volume, width, bias=has_bias)
        if config.use_learned_positional_embeddings:
            num_tokens = config.max_text_seq_length + math.prod(config.base_grid)
            self.learned_positions = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.time_embed = ScalarEmbedding(width, config.time_embed_dim)
        if config.ofs_embed_dim is not None:
            self.ofs_embed = ScalarEmbedding(config.ofs_embed_dim, config.ofs_embed_dim)
        block_class = SeparateStreamsBlock if config.separate_weights == "all" else TransformerBlock
        self.blocks = nn.ModuleList(block_class(config) for _ in range(config.num_layers))
        self.final = FinalLayer(config)

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        text: Float[Tensor, "b num_text d_text"],
        timestep: Float[Tensor, " b"] | Int[Tensor, " b"] | None,
        *,
        ofs: float | Float[Tensor, " b"] | None = None,
        positions: Positions | None = None,
        modulation: Modulation | None = None,
        attend: Attend = dense_attention,
    ) -> Float[Tensor, "b c_out t h w"]:
        """Predict the velocity of a batch of clips of one size.

        Args:
            latents: noised latents times the scaling factor; image latents, if any, follow on the channel axis.
            text: the text encoder's output, including padding.
            timestep: timestep of each sample, 0 to 999.
            ofs: the second scalar condition of 1.5-5B-I2V (2.0 in the official pipelines).
            positions: precomputed positions of this size (`positions_for`).
            modulation: precomputed modulation (`precompute_modulation`); `timestep` and `ofs` are then ignored, and
                `timestep` may be None.
            attend: the attention function, see `attention`.

        Raises:
            UserError: the size is not a multiple of the patch size or does not fit the learned positions; or `timestep`
                or `ofs` is missing, or `ofs` is not a condition of this model.
        """
        config, num_text = self.config, text.shape[1]
        grid = token_grid(config, *latents.shape[2:])
        if positions is None:
            positions = positions_for(config, *latents.shape[2:], num_text=num_text, device=latents.device)
        elif config.use_learned_positional_embeddings:
            check_learned_positions(config, grid, num_text)
        layout = StreamLayout((num_text, math.prod(grid)), grids=(grid,))
        emb = self.embed_timestep(timestep, ofs) if modulation is None else None
        patches = self._predict(patchify(latents, config), text, positions, layout, attend, emb, modulation)
        return unpatchify(patches, grid, config)

    def forward_packed(
        self,
        latents: Sequence[Float[Tensor, "c _t _h _w"]],
        text: Float[Tensor, "s num_text d_text"],
        timestep: Timestep,
        *,
        ofs: float | Float[Tensor, " s"] | None = None,
        rule: PositionRule | None = None,
        attend: Attend = packed_attention,
    ) -> list[Float[Tensor, "c_out _t _h _w"]]:
        """Predict the velocities of clips of different sizes, packed into one row without padding (section 3.1).

        Each clip has its own text, timestep and positions, and attends only to itself, so its prediction equals that of
        `forward`.

        Args:
            latents: noised latents of each clip, as in `forward`.
            text, timestep, ofs: conditions of each clip, as in `forward`.
            rule: how rotary positions depend on the size of a clip, by default the config's `position_rule`.

        Raises:
            UserError: as in `forward`.
        """
        config, num_text = self.config, text.shape[1]
        sizes = [tuple(clip.shape[1:]) for clip in latents]
        grids = [token_grid(config, *size) for size in sizes]
        lengths = tuple(math.prod(grid) for grid in grids)
        layout = packed_layout(num_text, lengths, text.device, grids=grids)
        positions_of = partial(positions_for, config, num_text=num_text, rule=rule, device=text.device)
        positions_by_size = {size: positions_of(*size) for size in set(sizes)}
        positions = concatenate_positions([positions_by_size[size] for size in sizes])

        patches = torch.cat([patchify(clip[None], config) for clip in latents], dim=1)
        emb = self.embed_timestep(timestep, ofs)
        patches = self._predict(patches, text, positions, layout, attend, emb, None)
        return [unpatchify(clip, grid, config)[0] for clip, grid in zip(patches.split(lengths, dim=1), grids)]

    def _predict(
        self,
        patches: Float[Tensor, "b n patch"],
        text: Float[Tensor, "_s num_text d_text"],
        positions: Positions,
        layout: StreamLayout,
        attend: Attend,
        emb: Float[Tensor, "_s e"] | None,
        modulation: Modulation | None,
    ) -> Float[Tensor, "b n patch_out"]:
        """Predict patches of the velocity from patches of noised latents, for `forward` and `forward_packed`.

        Exactly one of `emb` and `modulation` is not None. The token stream is created here and not by the callers, so
        that only one copy of it is in memory.
        """
        lengths = layout.spans[1::2]
        x = _interleave(self.text_in(text).chunk(len(lengths)), self.patch_in(patches).split(lengths, dim=1))
        if positions.sincos is not None:
            x = x + positions.sincos.to(x.dtype)
        if self.config.use_learned_positional_embeddings:
            x = x + torch.cat([self.learned_positions[:, :length] for length in layout.segments], dim=1)
        for i, block in enumerate(self.blocks):
            block_modulation = None if modulation is None else modulation.blocks[i]
            block_attend = attention_of_block(self.config.attention, i, attend)
            x = block(x, emb=emb, modulation=block_modulation, rope=positions.rope, layout=layout, attend=block_attend)
        videos = x.split(layout.spans, dim=1)[1::2]
        x = videos[0] if len(videos) == 1 else torch.cat(videos, dim=1)
        final_modulation = None if modulation is None else modulation.final
        return self.final(x, emb=emb, modulation=final_modulation, spans=lengths)

    def precompute_modulation(self, timestep: Timestep, ofs: float | Float[Tensor, " s"] | None = None) -> Modulation:
        """Compute the modulation of all timesteps of a sampler at once. It depends only on the timesteps and `ofs`.

        Use `tables = model.precompute_modulation(timesteps)`, then `model(..., modulation=tables[i])` at step i.
        If `tables` is passed without an index, sample s of the batch has timestep s.
        """
        emb = self.embed_timestep(timestep, ofs)
        # pyrefly: ignore[not-callable]
        blocks = tuple(block.compute_modulation(emb) for block in self.blocks)
        return Modulation(blocks, self.final.compute_modulation(emb))

    def embed_timestep(
        self, timestep: Timestep | None, ofs: float | Float[Tensor, " s"] | None = None
    ) -> Float[Tensor, "s e"]:
        """Return the time embedding, of which all modulation is a linear function.

        Raises:
            UserError: `timestep` or `ofs` is missing, or `ofs` is not a condition of this model.
        """
        if timestep is None:
            raise UserError("the transformer needs a timestep or a precomputed modulation")
        emb = self.time_embed(timestep)
        if self.config.ofs_embed_dim is not None:
            if ofs is None:
                raise UserError("this transformer needs ofs; the official value is 2.0")
            emb = emb + self.ofs_embed(torch.as_tensor(ofs, device=timestep.device).expand(len(timestep)))
        elif ofs is not None:
            raise UserError(
                f"ofs={ofs} is not a condition of this transformer, which has no ofs_embed_dim: leave it out"
            )
        return F.silu(emb)


class FinalLayer(nn.Module):
    """Final norms and projection of video tokens to patches. The official weights have two norms in a row."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.modulation = Linear(config.time_embed_dim, 2 * width)
        self.norm2 = AdaptiveNorm(width, eps=config.norm_eps)
        self.linear = Linear(width, config.out_channels * config.patch_volume)

    def compute_modulation(self, emb: Float[Tensor, "s e"]) -> FinalModulation:
        """Return the modulation at the timesteps of `emb`, [s 1 d] each."""
        shift, scale = self.modulation(emb).unflatten(-1, (2, 1, -1)).unbind(1)
        return FinalModulation(*self.norm2.fold(shift, scale))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        emb: Float[Tensor, "s e"] | None,
        modulation: FinalModulation | None,
        spans: Spans,
    ) -> Float[Tensor, "b n patch"]:
        """Project video tokens to patches. `spans` are the lengths of the videos; see also `TransformerBlock`."""
        if modulation is None:
            assert emb is not None
            modulation = FinalModulation._make(by_row(self.compute_modulation(emb), len(x)))
        return self.linear(self.norm2(self.norm1(x), modulation.shift, modulation.scale, spans))


def _interleave(texts: Sequence[Tensor], videos: Sequence[Tensor]) -> Float[Tensor, "b n d"]:
    """Concatenate text_1, video_1, text_2, video_2, and so on to one stream."""
    return torch.cat([part for pair in zip(texts, videos, strict=True) for part in pair], dim=1)


def patchify(latents: Float[Tensor, "b c t h w"], config: TransformerConfig) -> Float[Tensor, "b n patch"]:
    """Split latents into patches, in the order of the weights: channel slowest, then time, height, width."""
    pt, ph, pw = config.patch
    return rearrange(latents, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)


def unpatchify(
    patches: Float[Tensor, "b n patch"], grid: tuple[int, int, int], config: TransformerConfig
) -> Float[Tensor, "b c t h w"]:
    """Reassemble latents from patches; the inverse of `patchify`."""
    (t, h, w), (pt, ph, pw) = grid, config.patch
    return rearrange(patches, "b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
