"""CLIP (Radford et al. 2021) with vision transformers, with the names of the original checkpoints (`ViT-B-32.pt`).

Axes: n images or strings, c channels, h w height and width in pixels, s tokens, d width.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.evaluation.models.torchscript import is_torchscript, read_torchscript
from cogvideox.evaluation.models.vision_blocks import count_blocks
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.video.official_tools import resize_pillow

HEAD_WIDTH = 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Statistics by which pixels in 0..1 are normalized."""
_UNUSED = ("input_resolution", "context_length", "vocab_size")
"""Numbers that the original archive stores beside the weights."""


class Attention(nn.MultiheadAttention):
    """Self-attention with an optional causal mask."""

    def __init__(self, width: int, num_heads: int, *, is_causal: bool) -> None:
        super().__init__(width, num_heads)
        self.is_causal = is_causal

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:  # pyrefly: ignore[bad-override]
        """Apply attention."""
        n, s, d = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(n, s, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.out_proj(
            F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal).transpose(1, 2).flatten(2)
        )


class Block(nn.Module):
    """Pre-norm transformer block with QuickGELU."""

    def __init__(self, width: int, num_heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads, is_causal=is_causal)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """Apply attention and MLP with residual connections."""
        x = x + self.attn(self.ln_1(x))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, depth: int, *, is_causal: bool) -> None:
        super().__init__()
        num_heads = max(1, width // HEAD_WIDTH)
        self.resblocks = nn.Sequential(*(Block(width, num_heads, is_causal=is_causal) for _ in range(depth)))

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """Apply all blocks."""
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """Image encoder."""

    def __init__(self, width: int, depth: int, patch_size: int, num_patches: int, out_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + num_patches, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, depth, is_causal=False)
        self.proj = nn.Parameter(torch.zeros(width, out_width))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the embedding of each image."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class CLIP(nn.Module):
    """Image and text encoders.

    Attributes:
        side: height and width in pixels of the images that it reads.
        num_tokens: tokens of a string; shorter ones are padded with zeros.
    """

    def __init__(self, vision: VisionTransformer, vocabulary: int, num_tokens: int, width: int, depth: int, side: int):
        super().__init__()
        self.side, self.num_tokens = side, num_tokens
        self.visual = vision
        self.transformer = Transformer(width, depth, is_causal=True)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(num_tokens, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, vision.proj.shape[1]))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return unit-length embeddings of normalized images (see `prepare`)."""
        return F.normalize(self.visual(images), dim=-1)

    def encode_text(self, tokens: Int[Tensor, "n s"]) -> Float[Tensor, "n d"]:
        """Return unit-length embeddings of strings: the output at the end token, which has the highest index."""
        x = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding))
        x = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection
        return F.normalize(x, dim=-1)

    def similarity(self, images: Float[Tensor, "n 3 h w"], tokens: Int[Tensor, "m s"]) -> Float[Tensor, "n m"]:
        """Return the logits: cosine similarities multiplied by the learned scale (about 100)."""
        return self.logit_scale.exp() * self.encode_images(images) @ self.encode_text(tokens).T


def prepare(frames: UInt8[np.ndarray, "t h w 3"], side: int = 224) -> Float[Tensor, "t 3 _h _w"]:
    """Resize (bicubic, shorter side), crop at the center, and normalize, as the original does with Pillow."""
    images = []
    for frame in frames:
        height, width = frame.shape[:2]
        size = (int(side * height / width), side) if width <= height else (side, int(side * width / height))
        top, left = (round((length - side) / 2) for length in size)
        images.append(resize_pillow(frame, *size)[top : top + side, left : left + side])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def load_clip(file: str | Path) -> CLIP:
    """Load an original archive or a state dict with its names; the size of the network is that of its tensors.

    Half-precision weights are converted to float32.

    Raises:
        UserError: the file is missing or damaged, or its tensors do not match.
    """
    state = read_torchscript(file) if is_torchscript(file) else dict(open_weights(file))
    state = {name: tensor for name, tensor in state.items() if name not in _UNUSED}
    if not {"visual.conv1.weight", "visual.proj", "text_projection", "token_embedding.weight"} <= set(state):
        raise UserError(f"{file} is not a checkpoint of CLIP with a vision transformer")
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    num_patches = state["visual.positional_embedding"].shape[0] - 1
    vision_depth, depth = (count_blocks(list(state), f"{prefix}transformer.resblocks.") for prefix in ("visual.", ""))
    vocabulary, text_width = state["token_embedding.weight"].shape
    num_tokens = state["positional_embedding"].shape[0]
    side = round(num_patches**0.5) * patch_size
    with torch.device("meta"):
        vision = VisionTransformer(width, vision_depth, patch_size, num_patches, state["visual.proj"].shape[1])
        network = CLIP(vision, vocabulary, num_tokens, text_width, depth, side)
    load_strict(network, state, where=str(file), dtype=torch.float32)
    return network.requires_grad_(False).eval()
