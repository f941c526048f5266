"""Vision encoders: a small convolutional encoder for clips, and vision models of transformers by path.

Both return one token per grid cell and group of consecutive frames.

Axes: `b` clips, `t` frames, `h w` height and width, `c` channels, `g` groups of frames, `n` tokens, `d` width.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from cogvideox.curation.captions.video_captioner.config import VisionConfig
from cogvideox.errors import UserError

_GRID = 4  # cells per side to which the patches of a model of transformers are averaged
_MAX_GROUPS = 64


def prepare_frames(frames: UInt8[Tensor, "t h w 3"], config: VisionConfig) -> Float[Tensor, "n 3 s s"]:
    """Sample at most `max_frames` frames evenly, resize them to squares, and scale their values to [-1, 1]."""
    if len(frames) > config.max_frames:
        frames = frames[torch.linspace(0, len(frames) - 1, config.max_frames).round().long()]
    images = rearrange(frames, "t h w c -> t c h w").float() / 127.5 - 1.0
    if images.shape[-2:] != (config.size, config.size):
        images = F.interpolate(images, (config.size, config.size), mode="bilinear", antialias=True)
    return images


def frame_mask(num_frames: Int[Tensor, " b"], length: int) -> Bool[Tensor, "b t"]:
    """Return which of `length` frames are frames of the clip; the others are padding."""
    return torch.arange(length, device=num_frames.device) < num_frames[:, None]


def group_frames(
    x: Float[Tensor, "b t n d"], mask: Bool[Tensor, "b t"], size: int
) -> tuple[Float[Tensor, "b g n d"], Bool[Tensor, "b g"]]:
    """Average groups of `size` consecutive frames without padding.

    Returns:
        The averages, and which groups have at least one frame.
    """
    padding = -x.shape[1] % size
    weights = F.pad(mask, (0, padding)).to(x.dtype)
    x = F.pad(x, (0, 0, 0, 0, 0, padding)) * weights[..., None, None]
    sums = rearrange(x, "b (g s) n d -> b g s n d", s=size).sum(2)
    counts = rearrange(weights, "b (g s) -> b g s", s=size).sum(2)
    return sums / counts.clamp(min=1)[..., None, None], counts > 0


class TemporalConv(nn.Module):
    """Residual 3x3 convolution over each frame and its two neighbors. Padding frames are zero and have no effect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(3 * channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b t c h w"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t c h w"]:
        b = len(x)
        y = F.silu(self.norm(x.flatten(0, 1))).unflatten(0, (b, -1)) * mask[:, :, None, None, None]
        y = F.pad(y, (0, 0, 0, 0, 0, 0, 1, 1))
        y = torch.cat((y[:, :-2], y[:, 1:-1], y[:, 2:]), dim=2)
        return x + self.conv(y.flatten(0, 1)).unflatten(0, (b, -1))


class SmallVisionEncoder(nn.Module):
    """Convolutions with stride 8 that mix neighboring frames, and a transformer over the tokens of the clip.

    The output does not depend on padding frames.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.channels[2]
        inputs = (3, *config.channels[:2])
        self.downsample = nn.ModuleList(
            nn.Conv2d(before, after, 5 if before == 3 else 3, stride=2, padding=2 if before == 3 else 1)
            for before, after in zip(inputs, config.channels)
        )
        self.mix = nn.ModuleList(TemporalConv(channels) for channels in config.channels[1:])
        self.last = TemporalConv(self.width)
        self.norm = nn.GroupNorm(8, self.width)
        self.num_cells = (config.size // 8) ** 2
        self.cell_embedding = nn.Parameter(0.02 * torch.randn(self.num_cells, self.width))
        self.time_embedding = nn.Parameter(0.02 * torch.randn(_MAX_GROUPS, self.width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width, config.num_heads, 4 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.num_layers)
        )

    def forward(
        self, frames: Float[Tensor, "b t 3 s s"], num_frames: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Return the tokens of each clip, and which of them are not padding."""
        b, t = frames.shape[:2]
        mask = frame_mask(num_frames, t)
        x = frames
        for index, conv in enumerate(self.downsample):
            x = conv(x.flatten(0, 1)).unflatten(0, (b, t))
            x = self.mix[index - 1](x, mask) if index else F.silu(x)
        x = self.last(x, mask)
        x = F.silu(self.norm(x.flatten(0, 1))).unflatten(0, (b, t))
        groups, present = group_frames(rearrange(x, "b t c h w -> b t (h w) c"), mask, self.config.pool_frames)
        groups = groups + self.cell_embedding + self.time_embedding[: groups.shape[1], None]
        tokens = rearrange(groups, "b g n d -> b (g n) d")
        valid = repeat(present, "b g -> b (g n)", n=groups.shape[2])
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=None if bool(valid.all()) else ~valid)
        return tokens, valid


class PretrainedVisionEncoder(nn.Module):
    """A vision model of transformers, applied to each frame; its patches are averaged to a grid of 4x4 cells.

    Raises:
        UserError: the folder is not a vision model, does not accept frames of `config.size`, or its patches are not a
            square.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        try:
            settings = AutoConfig.from_pretrained(config.path, local_files_only=True)
            network = AutoModel.from_pretrained(config.path, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"cannot load {config.path} as a vision model: {reason}") from None
        self.config, self.network = config, getattr(network, "vision_model", network)
        self.num_cells = _GRID**2
        self.width = getattr(settings, "vision_config", settings).hidden_size
        mean, std = _normalization(Path(config.path))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.time_embedding = nn.Parameter(0.02 * torch.randn(_MAX_GROUPS, self.width))
        self._check_size(getattr(settings, "vision_config", settings))

    def _check_size(self, settings: Any) -> None:
        """Encode an empty frame, because most models accept only frames of the size that they were trained with."""
        try:
            with torch.no_grad():
                self(torch.zeros(1, 1, 3, self.config.size, self.config.size), torch.ones(1, dtype=torch.long))
        except (ValueError, RuntimeError) as error:
            trained = getattr(settings, "image_size", None)
            reason = f"set vision.size={trained}" if isinstance(trained, int) else " ".join(str(error).split())[:300]
            raise UserError(
                f"{self.config.path} does not accept frames with vision.size={self.config.size}: {reason}"
            ) from None

    def forward(
        self, frames: Float[Tensor, "b t 3 s s"], num_frames: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Return the tokens of each clip, and which of them are not padding."""
        pixels = ((frames.flatten(0, 1) + 1) / 2 - self.mean) / self.std
        features = self.network(pixel_values=pixels).last_hidden_state
        side = int(features.shape[1] ** 0.5)
        if side * side < features.shape[1] - 8:
            raise UserError(
                f"{self.config.path} does not divide frames into a square of patches: choose another vision model"
            )
        patches = rearrange(features[:, -side * side :], "b (h w) d -> b d h w", h=side)
        cells = F.adaptive_avg_pool2d(patches, _GRID).flatten(2).transpose(1, 2)
        cells = cells.unflatten(0, frames.shape[:2])
        groups, present = group_frames(cells, frame_mask(num_frames, frames.shape[1]), self.config.pool_frames)
        groups = groups + self.time_embedding[: groups.shape[1], None]
        return rearrange(groups, "b g n d -> b (g n) d"), repeat(present, "b g -> b (g n)", n=groups.shape[2])


def build_vision_encoder(config: VisionConfig) -> SmallVisionEncoder | PretrainedVisionEncoder:
    """Build the encoder that the config selects.

    Raises:
        UserError: the model of `config.path` cannot be loaded.
    """
    if -(-config.max_frames // config.pool_frames) > _MAX_GROUPS:
        raise UserError(
            f"vision.max_frames={config.max_frames} must be at most {_MAX_GROUPS * config.pool_frames}, "
            f"{_MAX_GROUPS} times "
            "vision.pool_frames"
        )
    return PretrainedVisionEncoder(config) if config.path else SmallVisionEncoder(config)


def _normalization(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of pixel values in [0, 1], by color."""
    from cogvideox.untrusted.files import read_json

    file = folder / "preprocessor_config.json"
    data = read_json(file) if file.is_file() else {}
    mean, std = (torch.tensor(data.get(name, [0.5] * 3)).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return mean, std
