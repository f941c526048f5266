"""Estimate the resources of a run before anything is loaded: tokens per step, parameters, memory, time.

The number of parameters is exact. Activation memory is the size of the tensors that autograd saves in a forward pass on
the meta device (`forward_cost`). Everything else is arithmetic. Fragmentation and temporary buffers of kernels are not
included.

On a CPU, the time of a step includes elementwise operations, calls of operations and the optimizer, except for the VAE.
The preparation of batches is not included.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.latents.latent_store import INDEX, read_settings
from cogvideox.formatting import format_gib
from cogvideox.geometry import PIXEL_RATIO, latent_shape
from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.model_spec import read_spec, shipped_models
from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.pretrained.offload.transformer_cost import ITEMSIZE, BatchShape, transformer_parameters
from cogvideox.pretrained.offload.vae_cost import vae_flops, vae_parameters
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.config import OptimSettings, ToyboxTraining, VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.quantized_base import BYTES_PER_WEIGHT
from cogvideox.training.diffusion.recipes import RECIPES
from cogvideox.training.metrics.throughput import step_flops
from cogvideox.training.metrics.tracker import format_duration
from cogvideox.training.optim.optimizers import hidden_matrices, muon_flops
from cogvideox.training.resources.forward_cost import (
    ForwardCost,
    text_encoder_forward,
    transformer_activations,
    transformer_forward,
    vae_activations,
    with_recomputation,
)
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.decoder import SpanCorruptionModel
from cogvideox.training.toybox.recipes import BASE, CHAIN, toybox_transformer
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae.losses.discriminator import Discriminator

_CPU_BANDWIDTH = 8.0e9
"""Bytes per second that elementwise operations read and write in each thread, on a CPU with vector instructions."""

_MAX_BANDWIDTH_THREADS = 8
"""Number of threads up to which the bandwidth grows; with more, main memory limits it."""

_CPU_CALL_SECONDS = 10e-6
"""Duration of an operation in PyTorch without its computation, on the one thread that starts operations."""

_CALLS_PER_FORWARD_CALL = 3
"""Operations of a forward and a backward pass, for each operation of the forward pass."""

_BYTES_PER_WRITTEN = 3 * _CALLS_PER_FORWARD_CALL
"""Bytes read and written in both passes, for each byte that the forward pass writes: two operands, one result."""

_BYTES_PER_TRAINED = 40
"""Bytes read and written for each trained parameter by AdamW, gradient clipping and the EMA, all in float32."""

FLOAT32 = 4
"""Bytes of an element of weights, gradients, EMA and optimizer state, which are float32 in mixed precision too."""


@dataclass(frozen=True)
class ResourceEstimate:
    """The resources that a run needs.

    Attributes:
        step: description of a step's content.
        parameters: number of parameters of the model, without a LoRA.
        trained: number of trainable parameters.
        memory: bytes per process, by purpose.
        seconds: duration of a step; None if unknown.
    """

    step: str
    parameters: int
    trained: int
    memory: dict[str, int]
    seconds: float | None

    @property
    def total(self) -> int:
        """Bytes per process."""
        return sum(self.memory.values())


def estimate(
    settings: DiffusionTraining | ToyboxTraining | TextEncoderTraining | VAETraining,
    machine: Hardware | None,
    num_ranks: int = 1,
) -> ResourceEstimate | None:
    """Estimate the resources of a run.

    Args:
        machine: the hardware of each process; None if unknown.
        num_ranks: number of processes.

    Returns:
        The estimate, or None if the base model is not available and not an official one.
    """
    if isinstance(settings, TextEncoderTraining):
        return _estimate_text_encoder(settings, machine)
    if isinstance(settings, VAETraining):
        return _estimate_vae(settings, machine, num_ranks)
    if isinstance(settings, ToyboxTraining):
        return _estimate_toybox(settings, machine)
    return _estimate_diffusion(settings, machine, num_ranks)


def clip_tokens(settings: DiffusionTraining) -> int:
    """Return the tokens of the largest clip of the target format, text included. The model must be known."""
    config = _transformer_config(settings)
    assert config is not None
    return _largest_clip(settings.target, config).tokens(config)


def format_estimate(
    resources: ResourceEstimate | None, num_steps: int, machine: Hardware | None, num_ranks: int
) -> list[str]:
    """Format an estimate as lines for the terminal."""
    if resources is None:
        return ["the resources of this run are unknown until its base model is available"]
    parts = " + ".join(f"{name} {format_gib(num_bytes)}" for name, num_bytes in resources.memory.items())
    lines = [
        f"steps       {num_steps:,} of {resources.step}",
        f"parameters  {resources.parameters:,}, {resources.trained:,} of them trained",
        f"memory      about {format_gib(resources.total)} = {parts}",
    ]
    if num_ranks > 1:
        lines[-1] += f" for each of {num_ranks} processes"
    if machine is not None:
        lines[-1] += f"; {format_gib(machine.free_bytes)} free"
    if resources.seconds is not None and machine is not None:
        total = format_duration(num_steps * resources.seconds)
        step = f"{resources.seconds:.2g}" if resources.seconds < 100 else f"{resources.seconds:.0f}"
        lines.append(f"time        about {step} s/step, {total} in total, on {machine.name}")
    return lines


def _estimate_diffusion(
    settings: DiffusionTraining, machine: Hardware | None, num_ranks: int
) -> ResourceEstimate | None:
    config, run = _transformer_config(settings), settings.run
    if config is None:
        return None
    clips = [(_largest_clip(target, config), target) for target in _clip_formats(settings)]
    clip, target = max(clips, key=lambda pair: pair[0].tokens(config))
    row = [clip] * max(1, settings.row_tokens // clip.tokens(config))
    all_weights, dtype = settings.lora is None, run.precision
    parameters = transformer_parameters(config)
    trained = parameters.total if all_weights else _lora_parameters(config, settings)
    activations = transformer_activations(config, row, dtype, settings.checkpointing, all_weights=all_weights)
    memory = _weight_bytes(trained, parameters.num_blocks * parameters.block_matrices, settings.optim)
    block = parameters.block_matrices + parameters.block_modulation
    memory["weights"] += 0 if all_weights else FLOAT32 * parameters.total
    memory = {name: num_bytes // num_ranks for name, num_bytes in memory.items()}
    if dtype != "float32" and num_ranks > 1:  # bfloat16 copies of the blocks that FSDP has gathered
        memory["weights"] += 2 * ITEMSIZE[dtype] * block
    elif dtype != "float32":  # a bfloat16 copy of trained weights; frozen ones are bfloat16 themselves
        frozen = 0 if all_weights else parameters.num_blocks * block
        memory["weights"] += ITEMSIZE[dtype] * trained - (FLOAT32 - ITEMSIZE[dtype]) * frozen
    if settings.lora is not None and settings.lora.base_weights != "exact":
        stored = BYTES_PER_WEIGHT[settings.lora.base_weights] * parameters.num_blocks * block
        largest_matrix = parameters.block_matrices // 3  # the one that is dequantized
        memory["weights"] += round(stored) - ITEMSIZE[dtype] * (parameters.num_blocks * block - largest_matrix)
    memory["activations"] = activations // settings.sequence
    recomputed = {"none": (0, 0), "full": (1, 1), "selective": (1, 0)}[settings.checkpointing]
    linear, attention = step_flops(config, row * run.batch_size, all_weights=all_weights)
    linear *= 1 + recomputed[0] / (3 if all_weights else 2)
    attention *= 1 + recomputed[1] / 3
    shape = f"clips of at most {target.num_frames} frames of {clip.width * PIXEL_RATIO}x{clip.height * PIXEL_RATIO}"
    if target.max_area is not None:
        shape = f"clips of at most {target.num_frames} frames and {target.max_area:,} pixels"
    rows = f"{run.batch_size:,} {'row' if run.batch_size == 1 else 'rows'} of {settings.row_tokens:,}"
    step = f"up to {run.batch_size * settings.row_tokens:,} tokens in {rows}; {shape}"
    forward = transformer_forward(config, row, dtype, all_weights=all_weights)
    forward = with_recomputation(forward, config, row, dtype, settings.checkpointing).times(run.batch_size)
    if settings.optim.name == "muon" and all_weights:
        linear += _muon_flops(config)
    seconds = _step_seconds(machine, dtype, linear, attention, forward, trained, num_ranks)
    return ResourceEstimate(step, parameters.total, trained, memory, seconds)


def _estimate_toybox(settings: ToyboxTraining, machine: Hardware | None) -> ResourceEstimate:
    config, run, clips = settings.transformer, settings.run, settings.clips
    latents = latent_shape(clips.num_frames, clips.height, clips.width, patch_t=config.patch[0])
    batch = BatchShape(run.batch_size, *latents, config.max_text_seq_length)
    parameters = transformer_parameters(config)
    text_encoder = build_network(settings.text_encoder)
    text_parameters = sum(weight.numel() for weight in text_encoder.parameters())
    trained = parameters.total + (text_parameters if settings.train_text_encoder else 0)
    memory = _weight_bytes(trained, parameters.num_blocks * parameters.block_matrices, settings.optim)
    memory["weights"] = FLOAT32 * (parameters.total + text_parameters)
    if run.precision != "float32":
        memory["weights"] += ITEMSIZE[run.precision] * trained
    per_clip = transformer_forward(config, [replace(batch, batch_size=1)], run.precision)
    memory["activations"] = run.batch_size * per_clip.saved
    tokens = batch.tokens(config)
    step = f"{run.batch_size * tokens:,} tokens in {run.batch_size} clips of {tokens}"
    forward = replace(per_clip, written=run.batch_size * per_clip.written)  # all clips at once
    linear, attention = step_flops(config, [batch])
    if settings.optim.name == "muon":
        linear += _muon_flops(config)
    seconds = _step_seconds(machine, run.precision, linear, attention, forward, trained)
    return ResourceEstimate(step, parameters.total + text_parameters, trained, memory, seconds)


def _estimate_text_encoder(settings: TextEncoderTraining, machine: Hardware | None) -> ResourceEstimate:
    run = settings.run
    with torch.device("meta"):
        model = SpanCorruptionModel(T5Encoder(settings.model), settings.num_decoder_layers)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    hidden = sum(weight.numel() for weight in hidden_matrices([model]).values())
    memory = _weight_bytes(num_parameters, hidden, settings.optim)
    tokens = run.batch_size * (2 * settings.text_length + 2)
    step = f"{tokens:,} tokens in {run.batch_size} documents"
    forward = text_encoder_forward(settings)
    memory["activations"] = forward.saved
    lookups = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding))
    linear = 6.0 * (num_parameters - lookups) * tokens / 2  # each weight multiplies the source or the target
    if settings.optim.name == "muon":
        linear += muon_flops([model])
    seconds = _step_seconds(machine, run.precision, linear, 0.0, forward, num_parameters)
    return ResourceEstimate(step, num_parameters, num_parameters, memory, seconds)


def _estimate_vae(settings: VAETraining, machine: Hardware | None, num_ranks: int) -> ResourceEstimate:
    run, clips, config = settings.run, settings.clips, settings.model
    ranks_per_clip = settings.context_parallel or num_ranks
    vae_size = vae_parameters(config)
    discriminator = None
    if settings.loss.gan > 0:
        with torch.device("meta"):
            discriminator = Discriminator(settings.discriminator)
    parameters = vae_size + sum(weight.numel() for weight in (discriminator.parameters() if discriminator else ()))
    memory = _weight_bytes(parameters, 0, settings.optim) | {"weights": FLOAT32 * parameters}
    memory["EMA"] = FLOAT32 * vae_size
    if run.precision != "float32":
        memory["weights"] += ITEMSIZE[run.precision] * parameters
    batch = max(1, run.batch_size * ranks_per_clip // num_ranks)
    shape = (clips.num_frames, clips.height, clips.width)
    activations = batch * vae_activations(settings, shape, discriminator)
    memory["activations"] = activations // ranks_per_clip
    latents = latent_shape(
        *shape, ratio=config.spatial_compression_ratio, frame_ratio=config.temporal_compression_ratio
    )
    flops = sum(vae_flops(config, *latents, decoder=decoder) for decoder in (False, True))
    seconds = None
    if machine is not None and _has_rates(machine, run.precision):
        seconds = 3 * run.batch_size * flops / machine.rates.convolution / num_ranks
    noun = "clip" if run.batch_size == 1 else "clips"
    step = f"{run.batch_size} {noun} of {clips.num_frames} frames of {clips.width}x{clips.height}"
    return ResourceEstimate(step, parameters, parameters, memory, seconds)


def _transformer_config(settings: DiffusionTraining) -> TransformerConfig | None:
    """Return the config of the transformer to train, or None if it is unknown.

    The config is read from the base model. If the base model does not exist yet, the config is that of the recipe that
    exports it (such as `runs/pretrain-256/model`), or of an official model.
    """
    config, stages = settings.transformer, RECIPES | CHAIN
    parts = Path(settings.model).parts
    official = settings.model.lower().rpartition("cogvideox")[2].lstrip("-")
    if config is None and (settings.model in shipped_models() or Path(settings.model).exists()):
        config = read_spec(settings.model).transformer
    elif config is None and len(parts) == 3 and parts[0] == "runs" and parts[1] in stages:
        config = _transformer_config(stages[parts[1]]())
    elif config is None and settings.model == BASE:
        config = toybox_transformer()
    elif config is None and official in PRESETS:
        config = PRESETS[official]()
    if config is not None and settings.add_image and not config.is_image_to_video:
        config = replace(config, in_channels=2 * config.out_channels)
    return config


def _clip_formats(settings: DiffusionTraining) -> list[ClipFormat]:
    """Return the clip format of each data source."""
    indices = [Path(source.store) / INDEX for source in settings.data]
    formats = [read_settings(index).target if index.is_file() else settings.target for index in indices]
    for clips in (source.clips for source in settings.toybox):
        formats.append(ClipFormat(clips.fps, clips.num_rendered, height=clips.height, width=clips.width))
    return formats or [settings.target]


def _largest_clip(target: ClipFormat, config: TransformerConfig) -> BatchShape:
    """Return the largest clip of a format. If only the area is limited, the clip is square; with learned position
    embeddings, it has the only supported size."""
    height, width = target.height, target.width
    if config.use_learned_positional_embeddings and target.max_area is not None:
        height, width = PIXEL_RATIO * config.sample_height, PIXEL_RATIO * config.sample_width
    elif height is None or width is None:
        height = width = max(1, math.isqrt(target.max_area or 0) // target.multiple) * target.multiple
    frames, h, w = latent_shape(target.num_frames, height, width, patch_t=config.patch[0])
    return BatchShape(1, frames, h, w, config.max_text_seq_length)


def _lora_parameters(config: TransformerConfig, settings: DiffusionTraining) -> int:
    """Return the number of parameters of the LoRA, counted in one block."""
    assert settings.lora is not None
    network = build_network(replace(config, num_layers=1))
    assert isinstance(network, Transformer)
    lora = settings.lora
    adapter = inject.create_lora(network, torch.Generator(), rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    lora_layers = adapter.layers
    return config.num_layers * sum(layer.down.numel() + layer.up.numel() for layer in lora_layers.values())


def _muon_flops(config: TransformerConfig) -> float:
    """Return the FLOPs of Muon in a step that trains all weights, counted in one block."""
    return config.num_layers * muon_flops([build_network(replace(config, num_layers=1))])


def _weight_bytes(trained: int, hidden: int, optim: OptimSettings) -> dict[str, int]:
    """Return the bytes of trained weights, gradients, optimizer state and EMA.

    Args:
        trained: number of trained weights.
        hidden: number of weights in matrices of blocks, which Muon trains.
    """
    muon = hidden if optim.name == "muon" else 0  # Muon has one moment, AdamW two
    moment_bytes = FLOAT32 if optim.moments == "float32" else 1 + FLOAT32 / 256  # 8bit: one byte plus block scales
    return {
        "weights": FLOAT32 * trained,
        "gradients": FLOAT32 * trained,
        "optimizer": FLOAT32 * muon + round(2 * moment_bytes * (trained - muon)),
        "EMA": FLOAT32 * trained,
    }


def _has_rates(machine: Hardware | None, precision: str) -> bool:
    """Return whether the machine's compute rates are known: measured for a CPU in this precision, listed for GPUs."""
    if machine is None:
        return False
    return machine.dtype == precision if machine.device_type == "cpu" else machine.rates.peak is not None


def _step_seconds(
    machine: Hardware | None,
    precision: str,
    linear: float,
    attention: float,
    forward: ForwardCost | None,
    trained: int,
    num_ranks: int = 1,
) -> float | None:
    """Return the duration of a step; None if the speed of the device is unknown.

    Args:
        linear: FLOPs of all matrix products outside of attention.
        attention: FLOPs of attention.
        forward: forward passes of a step, scaled for activation checkpointing; None if unknown.
        trained: number of trainable parameters.
    """
    if machine is None or not _has_rates(machine, precision):
        return None
    seconds = linear / machine.rates.linear + attention / machine.rates.attention
    if machine.device_type == "cpu":  # a GPU computes while the CPU starts the next operations
        forward = forward or ForwardCost(0, 0, 0)
        bandwidth = _CPU_BANDWIDTH * min(machine.num_threads, _MAX_BANDWIDTH_THREADS)
        seconds += (_BYTES_PER_WRITTEN * forward.written + _BYTES_PER_TRAINED * trained) / bandwidth
        seconds += _CALLS_PER_FORWARD_CALL * forward.calls * _CPU_CALL_SECONDS
    return seconds / num_ranks
