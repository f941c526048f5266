"""Memory and FLOPs of the transformer and the text encoder, computed from their configs.

Parameter counts are exact. Activation memory is the size of the tensors that are alive at the peak of a forward pass.
It is derived from the networks' code; `tests/unit/pretrained/offload/test_costs.py` checks it on the meta device, by
tracking every tensor.
"""

import math
from dataclasses import dataclass
from typing import Literal

from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig

OffloadStrategy = Literal["resident", "model_offload", "group_offload"]
"""resident: always on the device. model_offload: the whole network is loaded when used and dropped when another network
is used. group_offload: blocks are loaded one at a time, with prefetch."""
WeightLocation = Literal["disk", "host", "device"]
"""Storage of the matrices of a group-offloaded network."""
WeightFormat = Literal["exact", "int8", "fp8"]
"""Format of stored matrices: the network's dtype, or quantized row-wise (`weight_quantization`)."""

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per value, by compute dtype."""


@dataclass(frozen=True)
class ParameterCounts:
    """Parameter counts of a network, in the groups of group offloading.

    Attributes:
        block_matrices: matrices in the forward pass of one block.
        block_modulation: matrix of one block that computes the timestep modulation, once for all steps.
        embedding: embedding table, of which only the required rows are read from disk.
        other: all other parameters, including the vectors of blocks; resident.
    """

    num_blocks: int
    block_matrices: int
    block_modulation: int
    embedding: int
    other: int

    @property
    def total(self) -> int:
        """Total number of parameters."""
        return self.num_blocks * (self.block_matrices + self.block_modulation) + self.embedding + self.other


@dataclass(frozen=True)
class WeightFootprint:
    """Memory of a network's weights under an offload strategy, in bytes.

    Attributes:
        location: storage of offloaded matrices.
        active: bytes on the device while the network is used.
        idle: bytes on the device while another network is used.
        host: bytes in host memory, if the device is not the CPU.
        loaded: bytes read from files before the first use.
        transferred: bytes moved to the device in one forward pass.
    """

    location: WeightLocation
    active: int
    idle: int
    host: int
    loaded: int
    transferred: int

    @classmethod
    def of(
        cls,
        parameters: ParameterCounts,
        strategy: OffloadStrategy,
        hardware: Hardware,
        weight_format: WeightFormat,
        file_itemsize: int,
    ) -> "WeightFootprint":
        """Compute the footprint of a network whose files have `file_itemsize` bytes per value."""
        itemsize, is_exact = ITEMSIZE[hardware.dtype], weight_format == "exact"
        in_files = parameters.total * file_itemsize
        if is_exact and strategy != "group_offload":
            active = parameters.total * itemsize
            return cls("device", active, active if strategy == "resident" else 0, 0, in_files, 0)
        stored = parameters.num_blocks * (parameters.block_matrices + parameters.block_modulation)
        stored *= itemsize if is_exact else 1
        resident = parameters.other * itemsize
        block = parameters.block_matrices * itemsize
        if strategy != "group_offload":  # stored quantized on the device, dequantized block by block
            return cls("device", resident + stored + block, resident + stored, 0, in_files, 0)
        fits_host = hardware.device_type == "cuda" and stored <= 0.8 * hardware.host_free_bytes
        if fits_host and parameters.block_modulation:  # the transformer, used in every step
            buffers = 2 * block + (0 if is_exact else 2 * parameters.block_matrices)
            return cls("host", resident + buffers, resident, stored, 0, stored)
        # On a CPU, the mapped part of the file counts too, including the tensor at its end.
        mapped = 0
        if hardware.device_type == "cpu":
            mapped = max(in_files // 50, 4 * 2**20) + parameters.block_matrices // 3 * file_itemsize
        transferred = parameters.num_blocks * parameters.block_matrices * file_itemsize
        return cls("disk", resident + 2 * block + mapped, resident, 0, 0, transferred)


def transformer_parameters(config: TransformerConfig) -> ParameterCounts:
    """Count the parameters of the transformer."""
    d, e, hidden = config.width, config.time_embed_dim, config.mlp_width
    modulation, streams = 6 * config.num_modulations * d, 2 if config.separate_weights == "all" else 1
    matrices = streams * (4 * d * d + 2 * d * hidden)
    vectors = modulation + streams * (3 * d + d + 4 * config.attention_head_dim + 4 * d + hidden + d)
    patch_in, patch_out = config.in_channels * config.patch_volume, config.out_channels * config.patch_volume
    has_bias = config.patch_bias or config.patch_size_t is not None
    other = (config.text_embed_dim + 1) * d + (patch_in + has_bias) * d + _timestep_mlp(d, e)
    other += 2 * d + (e + 1) * 2 * d + 2 * d + (d + 1) * patch_out
    if config.use_learned_positional_embeddings:
        other += (config.max_text_seq_length + math.prod(config.base_grid)) * d
    if config.ofs_embed_dim is not None:
        other += _timestep_mlp(config.ofs_embed_dim, config.ofs_embed_dim)
    return ParameterCounts(config.num_layers, matrices, modulation * e, 0, other + config.num_layers * vectors)


def text_parameters(config: T5Config) -> ParameterCounts:
    """Count the parameters of the text encoder."""
    d, inner = config.d_model, config.num_heads * config.d_kv
    other = config.relative_attention_num_buckets * config.num_heads + d + config.num_layers * 2 * d
    return ParameterCounts(config.num_layers, 4 * d * inner + 3 * d * config.d_ff, 0, config.vocab_size * d, other)


@dataclass(frozen=True)
class BatchShape:
    """The shape of a batch of clips: latent frames, latent height and width, and text tokens."""

    batch_size: int
    frames: int
    height: int
    width: int
    text_length: int

    def tokens(self, config: TransformerConfig) -> int:
        """Return the number of tokens of one clip, including text."""
        return self.text_length + self.frames * self.height * self.width // config.patch_volume


def transformer_activations(config: TransformerConfig, shape: BatchShape, num_steps: int, dtype: str) -> int:
    """Estimate the peak activation memory of one forward pass in bytes, including the modulation of all steps.

    The peak is in the feed-forward layer of a block: its input before and after attention, the normalized input, and
    the hidden layer (four times as wide) before and after GELU. With rotary positions in a 2-byte dtype, the peak is in
    attention, where queries and keys are rotated in float32. Separate streams are split and merged by copies.
    Factorized attention repeats the text's keys and values for every frame or position.
    """
    size, d, tokens = ITEMSIZE[dtype], config.width, shape.tokens(config)
    rotary = config.use_rotary_positional_embeddings
    hidden = shape.batch_size * tokens * d * size
    attention = 13 if rotary and size == 2 else 9
    peak = max(3 + 2 * config.mlp_width / d, attention, 19 if config.separate_weights == "all" else 0) * hidden
    if config.attention == "factorized":
        num_groups = max(_frames_and_tokens(config, shape))
        peak = max(peak, 10 * hidden + 3 * shape.batch_size * num_groups * shape.text_length * d * size)
    positions = tokens * (config.attention_head_dim if rotary else d) * 4
    modulation = num_steps * (config.num_layers * 12 + 2) * d * size
    cells = shape.frames * shape.height * shape.width
    latents = cells * shape.batch_size * (config.in_channels + config.out_channels) * size
    latents += cells * config.out_channels * 4 * 6
    return int(peak) + positions + modulation + latents


def transformer_flops(config: TransformerConfig, shape: BatchShape) -> tuple[float, float]:
    """Count the FLOPs of linear layers and of attention in one forward pass. A multiply-add counts as two."""
    tokens, d, batch = shape.tokens(config), config.width, float(shape.batch_size)
    linear = batch * config.num_layers * tokens * (8 * d * d + 4 * d * config.mlp_width)
    return linear, batch * 4 * _attended_pairs(config, shape) * d


def _attended_pairs(config: TransformerConfig, shape: BatchShape) -> int:
    """Return the number of pairs of tokens that attend to each other in one clip, over all blocks."""
    tokens, layers = shape.tokens(config), config.num_layers
    if config.attention == "full":
        return layers * tokens**2
    frames, per_frame = _frames_and_tokens(config, shape)
    text, video = shape.text_length, frames * per_frame
    by_block = [text * tokens + video * (text + group) for group in (per_frame, frames)]
    return (layers - layers // 2) * by_block[0] + layers // 2 * by_block[1]


def _frames_and_tokens(config: TransformerConfig, shape: BatchShape) -> tuple[int, int]:
    """Return the number of frames of a clip, in patches, and of tokens per frame."""
    frames = shape.frames // config.patch[0]
    return frames, shape.height * shape.width // config.patch_size**2


def text_activations(config: T5Config, text_length: int, dtype: str) -> int:
    """Estimate the peak activation memory of encoding one prompt, in bytes. The residual stream is always float32."""
    size, n = ITEMSIZE[dtype], text_length
    peak = n * (4 * config.d_ff * size + 3 * config.d_model * max(size, 4)) + config.num_heads * n * n * size
    if dtype == "float16":  # the last matrix product of a block runs in float32, with float32 weights
        peak += n * config.d_ff * 4 + config.d_ff * config.d_model * 4
    return peak


def text_flops(config: T5Config, text_length: int) -> float:
    """Count the FLOPs of encoding one prompt."""
    return 2.0 * text_length * config.num_layers * text_parameters(config).block_matrices


def _timestep_mlp(num_frequencies: int, width: int) -> int:
    return (num_frequencies + 1) * width + (width + 1) * width
