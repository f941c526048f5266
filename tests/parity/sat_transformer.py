"""A reference implementation of the transformer in the layout of SAT, the original code. For tests only.

Derived from the checkpoints, for a flat state dict: queries, keys and values are one matrix; the modulation is one
matrix with six parts for video, then six for text; video latents are [b t c h w]. Files of the 1.0 family also contain
position tables; rotary tables are [tokens, head channels].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from cogvideox.transformer.config import TransformerConfig

State = dict[str, Tensor]


def state(config: TransformerConfig, generator: torch.Generator) -> State:
    """Return random weights with SAT's names, and the position tables in the files of this model family."""
    d, e, c = config.width, config.time_embed_dim, config.in_channels
    head, p = config.attention_head_dim, config.patch_size
    in_time = config.patch_size_t is not None
    shapes: dict[str, tuple[int, ...]] = {
        "mixins.patch_embed.proj.weight": (d, c * 8) if in_time else (d, c, p, p),
        "mixins.patch_embed.proj.bias": (d,),
        "mixins.patch_embed.text_proj.weight": (d, config.text_embed_dim),
        "mixins.patch_embed.text_proj.bias": (d,),
        "transformer.final_layernorm.weight": (d,),
        "transformer.final_layernorm.bias": (d,),
        "mixins.final_layer.norm_final.weight": (d,),
        "mixins.final_layer.norm_final.bias": (d,),
        "mixins.final_layer.adaLN_modulation.1.weight": (2 * d, e),
        "mixins.final_layer.adaLN_modulation.1.bias": (2 * d,),
        "mixins.final_layer.linear.weight": (config.out_channels * config.patch_volume, d),
        "mixins.final_layer.linear.bias": (config.out_channels * config.patch_volume,),
    }
    for name, width in (("time_embed", d), ("ofs_embed", e)):
        if name == "time_embed" or config.ofs_embed_dim:
            shapes |= {f"{name}.0.weight": (e, width), f"{name}.0.bias": (e,)}
            shapes |= {f"{name}.2.weight": (e, e), f"{name}.2.bias": (e,)}
    for n in range(config.num_layers):
        layer = {
            f"transformer.layers.{n}.input_layernorm": (d,),
            f"transformer.layers.{n}.post_attention_layernorm": (d,),
            f"transformer.layers.{n}.attention.query_key_value": (3 * d, d),
            f"transformer.layers.{n}.attention.dense": (d, d),
            f"transformer.layers.{n}.mlp.dense_h_to_4h": (4 * d, d),
            f"transformer.layers.{n}.mlp.dense_4h_to_h": (d, 4 * d),
            f"mixins.adaln_layer.adaLN_modulations.{n}.1": (12 * d, e),
            f"mixins.adaln_layer.query_layernorm_list.{n}": (head,),
            f"mixins.adaln_layer.key_layernorm_list.{n}": (head,),
        }
        shapes |= {f"{name}.weight": shape for name, shape in layer.items()}
        shapes |= {f"{name}.bias": shape[:1] for name, shape in layer.items()}

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return noise / math.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 0.3 * noise + name.endswith("weight")

    weights = {name: draw(name, shape) for name, shape in shapes.items()}
    t, h, w = config.base_grid
    num_text = config.max_text_seq_length
    if not config.use_rotary_positional_embeddings:
        table = torch.zeros(1, num_text + t * h * w, d)
        table[0, num_text:] = sinusoids(t, h, w, d)
        weights["mixins.pos_embed.pos_embedding"] = table
    elif not in_time:  # SAT checkpoints of 1.5 contain no table
        cos, sin = rotary(t, h, w, head)
        weights |= {"mixins.pos_embed.freqs_cos": cos, "mixins.pos_embed.freqs_sin": sin}
    if config.use_learned_positional_embeddings:
        weights["mixins.pos_embed.pos_embedding"] = torch.randn(1, num_text + t * h * w, d, generator=generator)
    return weights


def predict(
    state: State,
    latents: Tensor,
    text: Tensor,
    timestep: Tensor,
    *,
    num_heads: int,
    ofs: float | None,
    patch_frames: int,
    rotary_positions: bool,
) -> Tensor:
    """Predict [b t c h w] from latents [b t c h w] of the size of the position tables.

    Args:
        patch_frames: number of latent frames of a patch.
        rotary_positions: whether positions are rotary; files of the main branch contain no table for them.
    """
    linear, norm = layers(state)
    d = state["mixins.patch_embed.text_proj.weight"].shape[0]
    num_layers = sum(name.endswith("attention.dense.weight") for name in state)
    num_text = text.shape[1]

    emb = linear("time_embed.2", F.silu(linear("time_embed.0", sinusoids_of(timestep, d))))
    if ofs is not None:
        width = state["ofs_embed.0.weight"].shape[1]
        emb = emb + linear(
            "ofs_embed.2", F.silu(linear("ofs_embed.0", sinusoids_of(torch.full_like(timestep, ofs), width)))
        )

    _, t, _, h, w = latents.shape
    weight = state["mixins.patch_embed.proj.weight"]
    if weight.ndim == 4:
        p, o = weight.shape[-1], 1
        frames = F.conv2d(latents.flatten(0, 1), weight, state["mixins.patch_embed.proj.bias"], stride=p)
        video = rearrange(frames, "(b t) d h w -> b (t h w) d", t=t)
    else:
        p, o = 2, patch_frames
        patches = rearrange(latents, "b (t o) c (h p) (w q) -> b (t h w) (c o p q)", o=o, p=p, q=p)
        video = linear("mixins.patch_embed.proj", patches)
    x = torch.cat((linear("mixins.patch_embed.text_proj", text), video), dim=1)
    if "mixins.pos_embed.pos_embedding" in state:
        x = x + state["mixins.pos_embed.pos_embedding"][:, : x.shape[1]]

    head = d // num_heads
    table = None
    if rotary_positions and "mixins.pos_embed.freqs_cos" not in state:
        table = rotary(t // o, h // p, w // p, head)
    elif "mixins.pos_embed.freqs_cos" in state:
        table = tuple(state[f"mixins.pos_embed.freqs_{part}"][: video.shape[1]] for part in ("cos", "sin"))

    for n in range(num_layers):
        layer, mixin = f"transformer.layers.{n}", "mixins.adaln_layer"
        parts = linear(f"{mixin}.adaLN_modulations.{n}.1", F.silu(emb))[:, None].chunk(12, dim=-1)
        video_parts, text_parts = parts[:6], parts[6:]

        normed = modulate(norm(f"{layer}.input_layernorm", x, 1e-5), num_text, video_parts[:2], text_parts[:2])
        q, k, v = (
            rearrange(part, "b n (k e) -> b k n e", k=num_heads)
            for part in linear(f"{layer}.attention.query_key_value", normed).chunk(3, dim=-1)
        )
        q = rotate_video(norm(f"{mixin}.query_layernorm_list.{n}", q, 1e-6), num_text, table)
        k = rotate_video(norm(f"{mixin}.key_layernorm_list.{n}", k, 1e-6), num_text, table)
        attended = ((q @ k.transpose(-1, -2)) / math.sqrt(head)).softmax(dim=-1) @ v
        out = linear(f"{layer}.attention.dense", rearrange(attended, "b k n e -> b n (k e)"))
        x = x + torch.cat((text_parts[2] * out[:, :num_text], video_parts[2] * out[:, num_text:]), dim=1)

        normed = modulate(
            norm(f"{layer}.post_attention_layernorm", x, 1e-5), num_text, video_parts[3:5], text_parts[3:5]
        )
        hidden = F.gelu(linear(f"{layer}.mlp.dense_h_to_4h", normed), approximate="tanh")
        out = linear(f"{layer}.mlp.dense_4h_to_h", hidden)
        x = x + torch.cat((text_parts[5] * out[:, :num_text], video_parts[5] * out[:, num_text:]), dim=1)

    x = norm("transformer.final_layernorm", x, 1e-5)[:, num_text:]
    shift, scale = linear("mixins.final_layer.adaLN_modulation.1", F.silu(emb))[:, None].chunk(2, dim=-1)
    x = norm("mixins.final_layer.norm_final", x, 1e-6) * (1 + scale) + shift
    x = linear("mixins.final_layer.linear", x)
    return rearrange(x, "b (t h w) (c o p q) -> b (t o) c (h p) (w q)", t=t // o, h=h // p, w=w // p, o=o, p=p, q=p)


def layers(state: State) -> tuple[Callable[[str, Tensor], Tensor], Callable[[str, Tensor, float], Tensor]]:
    """Return functions that apply a linear layer and a layer norm of the state dict, by name."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    return linear, norm


def modulate(x: Tensor, num_text: int, video_parts: tuple[Tensor, ...], text_parts: tuple[Tensor, ...]) -> Tensor:
    text = x[:, :num_text] * (1 + text_parts[1]) + text_parts[0]
    video = x[:, num_text:] * (1 + video_parts[1]) + video_parts[0]
    return torch.cat((text, video), dim=1)


def rotate_video(x: Tensor, num_text: int, table: tuple[Tensor, ...] | None) -> Tensor:
    """Apply rotary positions to the video tokens; adjacent channels form a pair."""
    if table is None:
        return x
    cos, sin = table
    video = x[:, :, num_text:]
    pairs = rearrange(video, "... (n two) -> ... n two", two=2)
    rotated = rearrange(torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1), "... n two -> ... (n two)")
    return torch.cat((x[:, :, :num_text], video * cos + rotated * sin), dim=2)


def sinusoids_of(values: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = values[:, None].float() * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def rotary(t: int, h: int, w: int, head: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [t*h*w, head]: 1/4 of the channels for time, 3/8 each for height and width."""
    axes = []
    for size, width in ((t, head // 4), (h, head // 8 * 3), (w, head // 8 * 3)):
        frequencies = 1 / 10000 ** (torch.arange(0, width, 2)[: width // 2].float() / width)
        axes.append(repeat(torch.arange(size)[:, None] * frequencies, "n f -> n (f two)", two=2))
    shape = (t, h, w, -1)
    angles = torch.cat(
        (axes[0][:, None, None].expand(shape), axes[1][None, :, None].expand(shape), axes[2].expand(shape)), dim=-1
    ).flatten(0, 2)
    return angles.cos(), angles.sin()


def sinusoids(t: int, h: int, w: int, d: int) -> Tensor:
    """Return the positions [t*h*w, d] of 2B: 1/4 of the channels for time, then width and height; sines first."""

    def embed(positions: Tensor, width: int) -> Tensor:
        angles = positions.double()[:, None] * 10000.0 ** (-torch.arange(width // 2).double() / (width / 2))
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    parts = (
        repeat(embed(torch.arange(t), d // 4), "t d -> (t h w) d", h=h, w=w),
        repeat(embed(torch.arange(w) / 1.875, d * 3 // 8), "w d -> (t h w) d", t=t, h=h),
        repeat(embed(torch.arange(h) / 1.875, d * 3 // 8), "h d -> (t h w) d", t=t, w=w),
    )
    return torch.cat(parts, dim=1).float()
