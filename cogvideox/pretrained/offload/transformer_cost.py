"""How large the transformer and the text encoder are and how much they compute, by arithmetic on their configurations.

Imports no torch: a plan is made before anything is loaded, and for models that are not here at all. Parameters are
exact. Activations are what is alive at the worst moment of a forward pass, counted in the code of the networks and held
to it by `tests/unit/pretrained/offload/test_costs.py`, which runs them on the meta device and sees every tensor come
and go.
"""

import math
from dataclasses import dataclass
from typing import Literal

from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig

OffloadStrategy = Literal["resident", "model_offload", "group_offload"]
WeightLocation = Literal["disk", "host", "device"]
"""Where the matrices of blocks wait for their turn; those on the device wait for none."""
WeightFormat = Literal["exact", "int8", "fp8"]
"""How matrices lie in memory: as they are, or in one byte a number (`rows`). From the disk they come as from there."""

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, in the types that networks compute in."""


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a network as they come and go when it is streamed.

    matrices: of one block, what its forward pass multiplies by.
    tables: of one block, the matrix that makes its modulation of the timestep, once for all steps.
    embedding: rows of which a few are looked up; they can stay on the disk.
    rest: everything else, blocks' vectors included, which is small and stays.
    """

    num_blocks: int
    matrices: int
    tables: int
    embedding: int
    rest: int

    @property
    def total(self) -> int:
        return self.num_blocks * (self.matrices + self.tables) + self.embedding + self.rest


@dataclass(frozen=True)
class WeightFootprint:
    """Bytes of a network's weights: on the device while it is used and while another one is, on the host, in its files,
    and that come over in one forward pass."""

    keep: OffloadStrategy
    weight_location: WeightLocation
    used: int
    idle: int
    host: int
    file_bytes: int
    moved: int

    @classmethod
    def of(
        cls,
        parameters: ParameterCounts,
        keep: OffloadStrategy,
        hardware: Hardware,
        weight_format: WeightFormat,
        file: int,
    ) -> "WeightFootprint":
        """`file`: bytes of a number in the files."""
        size = ITEMSIZE[hardware.dtype]
        in_blocks = parameters.num_blocks * (parameters.matrices + parameters.tables)
        on_disk = parameters.total * file
        if weight_format == "exact" and keep != "group_offload":
            used = parameters.total * size
            return cls(keep, "device", used, used if keep == "resident" else 0, 0, on_disk, 0)
        waiting = in_blocks * (size if weight_format == "exact" else 1)
        rest = parameters.rest * size
        block = parameters.matrices * size
        if keep != "group_offload":  # one-byte storage on the device: spread out block by block
            used = rest + waiting + block
            return cls(keep, "device", used, rest + waiting, 0, on_disk, 0)
        moving, two = parameters.num_blocks * parameters.matrices, 2 * block
        from_host = hardware.device_type == "cuda" and waiting <= 0.8 * hardware.host_free_bytes
        if from_host and parameters.tables:  # the transformer, which is used in every step
            two += 2 * parameters.matrices if weight_format != "exact" else 0
            return cls(keep, "host", rest + two, rest, waiting, on_disk, waiting)
        # On a CPU the piece of the mapped file that is read counts too, with the tensor at its end.
        last = parameters.matrices // 3 * file
        mapped = max(on_disk // 50, 4 * 2**20) + last if hardware.device_type == "cpu" else 0
        return cls(keep, "disk", rest + two + mapped, rest, 0, on_disk, moving * file)


def transformer_parameters(config: TransformerConfig) -> ParameterCounts:
    """Of the transformer."""
    d, e = config.width, config.time_embed_dim
    vectors = 12 * d + 3 * d + d + 4 * config.attention_head_dim + 4 * d + 4 * d + d
    patch_in, patch_out = config.in_channels * config.patch_volume, config.out_channels * config.patch_volume
    has_bias = config.patch_bias or config.patch_size_t is not None
    rest = (config.text_embed_dim + 1) * d + (patch_in + has_bias) * d + _scalar(d, e)
    rest += 2 * d + (e + 1) * 2 * d + 2 * d + (d + 1) * patch_out
    if config.use_learned_positional_embeddings:
        rest += (config.max_text_seq_length + math.prod(config.base_grid)) * d
    if config.ofs_embed_dim is not None:
        rest += _scalar(config.ofs_embed_dim, config.ofs_embed_dim)
    return ParameterCounts(config.num_layers, 12 * d * d, 12 * d * e, 0, rest + config.num_layers * vectors)


def text_parameters(config: T5Config) -> ParameterCounts:
    """Of the text encoder."""
    d, inner = config.d_model, config.num_heads * config.d_kv
    rest = config.relative_attention_num_buckets * config.num_heads + d + config.num_layers * 2 * d
    return ParameterCounts(config.num_layers, 4 * d * inner + 3 * d * config.d_ff, 0, config.vocab_size * d, rest)


@dataclass(frozen=True)
class BatchShape:
    """What the transformer works on at once: a batch of clips, in latent frames and latent pixels."""

    batch_size: int
    frames: int
    height: int
    width: int
    text_length: int

    def tokens(self, config: TransformerConfig) -> int:
        """Tokens of one clip, text included."""
        return self.text_length + self.frames * self.height * self.width // config.patch_volume


def transformer_activations(config: TransformerConfig, clip: BatchShape, num_steps: int, dtype: str) -> int:
    """Bytes beside the weights in one forward pass, with the modulation of all steps.

    The worst moment is in the feed-forward layer of a block: its input twice (before and after attention), normed, and
    four times as wide before and after GELU. With rotary positions in two bytes it is in attention, where queries and
    keys are turned in float32.
    """
    size, d, tokens = ITEMSIZE[dtype], config.width, clip.tokens(config)
    rotary = config.use_rotary_positional_embeddings
    stream = clip.batch_size * tokens * d * size
    live = (13 if rotary and size == 2 else 11) * stream
    positions = tokens * (config.attention_head_dim if rotary else d) * 4
    tables = num_steps * (config.num_layers * 12 + 2) * d * size
    cells = clip.frames * clip.height * clip.width
    latents = cells * clip.batch_size * (config.in_channels + config.out_channels) * size
    latents += cells * config.out_channels * 4 * 6
    return live + positions + tables + latents


def transformer_flops(config: TransformerConfig, clip: BatchShape) -> tuple[float, float]:
    """Of one forward pass: in linear layers, and in attention. A multiplication with its addition counts as two."""
    tokens, d, layers = clip.tokens(config), config.width, config.num_layers
    return clip.batch_size * layers * 24.0 * tokens * d * d, clip.batch_size * layers * 4.0 * tokens**2 * d


def text_activations(config: T5Config, text_length: int, dtype: str) -> int:
    """Bytes beside the weights while one text is encoded. The stream between blocks is float32 in any type."""
    size, n = ITEMSIZE[dtype], text_length
    live = n * (4 * config.d_ff * size + 3 * config.d_model * max(size, 4)) + config.num_heads * n * n * size
    if dtype == "float16":  # the last product of a block is done in float32, weights too
        live += n * config.d_ff * 4 + config.d_ff * config.d_model * 4
    return live


def text_flops(config: T5Config, text_length: int) -> float:
    """Of one text."""
    return 2.0 * text_length * config.num_layers * text_parameters(config).matrices


def _scalar(num_waves: int, width: int) -> int:
    return (num_waves + 1) * width + (width + 1) * width
