"""What a run will take, before anything is loaded: tokens of a step, parameters, memory of each process, time.

Parameters are exact. What activations take is counted: the network runs on the meta device, which computes nothing, and
tells what the gradients need kept. The rest is arithmetic. Allocators' gaps and what kernels need for a moment are not
in it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cogvideox.dataset.config import ClipFormat
from cogvideox.dataset.latents.latent_store import INDEX, read_settings
from cogvideox.formatting import format_bytes
from cogvideox.geometry import PIXEL_RATIO, latent_shape
from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.model_spec import read_spec, shipped_models
from cogvideox.pretrained.offload.hardware import Hardware
from cogvideox.pretrained.offload.transformer_cost import ITEMSIZE, BatchShape, transformer_parameters
from cogvideox.pretrained.offload.vae_cost import vae_flops, vae_parameters
from cogvideox.training.config import OptimSettings, ToyboxTraining, VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.recipes import STAGES
from cogvideox.training.metrics.throughput import step_flops
from cogvideox.training.metrics.tracker import format_duration
from cogvideox.training.vae.trainer import reconstruct
from cogvideox.transformer.attention import Heads, StreamLayout
from cogvideox.transformer.config import PRESETS, TransformerConfig
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer
from cogvideox.vae.conv_cache import ConvCache
from cogvideox.vae.losses.discriminator import Discriminator
from cogvideox.vae.model import CausalVAE

FLOAT32 = 4
"""Bytes of a number in weights, gradients, averages and moments, whatever products are computed in."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    step: what is in one, in words.
    trained: those of the parameters that learn.
    memory: bytes of each process, by what they are for.
    seconds: of a step; None where nobody knows.
    """

    step: str
    parameters: int
    trained: int
    memory: dict[str, int]
    seconds: float | None


def estimate(
    settings: DiffusionTraining | ToyboxTraining | VAETraining, machine: Hardware | None, num_ranks: int = 1
) -> Estimate | None:
    """Of a run over so many processes, each on such a machine; None where the model that it begins with is not known
    before it is there."""
    if isinstance(settings, VAETraining):
        return _of_vae(settings, machine, num_ranks)
    if isinstance(settings, ToyboxTraining):
        return _of_toybox(settings, machine)
    return _of_stage(settings, machine, num_ranks)


def told(found: Estimate | None, num_steps: int, machine: Hardware | None, num_ranks: int) -> list[str]:
    """An estimate for people."""
    if found is None:
        return ["what it takes is known once the model that it begins with is there"]
    parts = " + ".join(f"{name} {format_bytes(num_bytes)}" for name, num_bytes in found.memory.items())
    lines = [
        f"steps       {num_steps:,}, of {found.step}",
        f"parameters  {found.parameters:,}, of which {found.trained:,} learn",
        f"memory      about {format_bytes(sum(found.memory.values()))} = {parts}",
    ]
    if num_ranks > 1:
        lines[-1] += f", in each of {num_ranks} processes"
    if machine is not None:
        lines[-1] += f"; {format_bytes(machine.free_bytes)} are free"
    if found.seconds is not None and machine is not None:
        whole = format_duration(num_steps * found.seconds)
        lines.append(f"time        about {found.seconds:.2g} s a step, {whole} in all, on {machine.name}")
    return lines


def _of_stage(settings: DiffusionTraining, machine: Hardware | None, num_ranks: int) -> Estimate | None:
    config, run = _transformer_of(settings), settings.run
    if config is None:
        return None
    clips = [(_largest(target, config), target) for target in _targets(settings)]
    one, target = max(clips, key=lambda pair: pair[0].tokens(config))
    per_row = max(1, settings.row_tokens // one.tokens(config))
    row = [one] * per_row
    all_weights, dtype = settings.lora is None, run.precision
    parameters = transformer_parameters(config)
    trained = parameters.total if all_weights else _factors(config, settings)
    activations = _kept_by_transformer(config, row, dtype, settings.checkpointing, all_weights=all_weights)
    memory = _of_weights(trained, parameters.num_blocks * parameters.block_matrices, settings.optim)
    block = parameters.block_matrices + parameters.block_modulation
    memory["weights"] += 0 if all_weights else FLOAT32 * parameters.total
    memory = {name: num_bytes // num_ranks for name, num_bytes in memory.items()}
    if dtype != "float32" and num_ranks > 1:  # a copy of the blocks that are in use
        memory["weights"] += 2 * ITEMSIZE[dtype] * block
    elif dtype != "float32":  # a copy of what learns; what does not is in this type itself
        frozen = 0 if all_weights else parameters.num_blocks * block
        memory["weights"] += ITEMSIZE[dtype] * trained - (FLOAT32 - ITEMSIZE[dtype]) * frozen
    memory["activations"] = activations // settings.sequence
    again = {"none": (0, 0), "full": (1, 1), "selective": (1, 0)}[settings.checkpointing]
    linear, attention = step_flops(config, row * run.batch_size, all_weights=all_weights)
    linear *= 1 + again[0] / (3 if all_weights else 2)
    attention *= 1 + again[1] / 3
    shape = f"clips of at most {target.num_frames} frames of {one.width * PIXEL_RATIO}x{one.height * PIXEL_RATIO}"
    if target.max_area is not None:
        shape = f"clips of at most {target.num_frames} frames and {target.max_area:,} pixels"
    rows = f"{run.batch_size:,} {'row' if run.batch_size == 1 else 'rows'} of {settings.row_tokens:,}"
    step = f"up to {run.batch_size * settings.row_tokens:,} tokens in {rows}; {shape}"
    return Estimate(step, parameters.total, trained, memory, _seconds(machine, dtype, linear, attention, num_ranks))


def _of_toybox(settings: ToyboxTraining, machine: Hardware | None) -> Estimate:
    config, run, clips = settings.transformer, settings.run, settings.clips
    latents = latent_shape(clips.num_frames, clips.height, clips.width, patch_t=config.patch[0])
    batch = BatchShape(run.batch_size, *latents, config.max_text_seq_length)
    parameters = transformer_parameters(config)
    text = build_network(settings.text_encoder)
    encoder = sum(weight.numel() for weight in text.parameters())
    trained = parameters.total + (encoder if settings.train_text_encoder else 0)
    memory = _of_weights(trained, parameters.num_blocks * parameters.block_matrices, settings.optim)
    memory["weights"] = FLOAT32 * (parameters.total + encoder)
    if run.precision != "float32":
        memory["weights"] += ITEMSIZE[run.precision] * trained
    of_one = _kept_by_transformer(config, [replace(batch, batch_size=1)], run.precision, "none")
    memory["activations"] = run.batch_size * of_one
    tokens = batch.tokens(config)
    step = f"{run.batch_size * tokens:,} tokens in {run.batch_size} clips of {tokens}"
    seconds = _seconds(machine, run.precision, *step_flops(config, [batch]), 1)
    return Estimate(step, parameters.total + encoder, trained, memory, seconds)


def _of_vae(settings: VAETraining, machine: Hardware | None, num_ranks: int) -> Estimate:
    run, clips, config = settings.run, settings.clips, settings.model
    sharing = settings.context_parallel or num_ranks  # processes that share a clip
    of_vae = vae_parameters(config)
    discriminator = None
    if settings.loss.gan > 0:
        with torch.device("meta"):
            discriminator = Discriminator(settings.discriminator)
    parameters = of_vae + sum(weight.numel() for weight in (discriminator.parameters() if discriminator else ()))
    memory = _of_weights(parameters, 0, settings.optim) | {"weights": FLOAT32 * parameters}
    memory["average"] = FLOAT32 * of_vae
    if run.precision != "float32":
        memory["weights"] += ITEMSIZE[run.precision] * parameters
    batch = max(1, run.batch_size * sharing // num_ranks)
    shape = (clips.num_frames, clips.height, clips.width)
    activations = batch * _kept_by_vae(settings, shape, discriminator)
    memory["activations"] = activations // sharing
    latents = latent_shape(*shape, ratio=config.spatial_compression_ratio)
    flops = sum(vae_flops(config, *latents, decoder=decoder) for decoder in (False, True))
    seconds = None
    if machine is not None and _knows(machine, run.precision):
        seconds = 3 * run.batch_size * flops / machine.rates.convolution / num_ranks
    of = "clip" if run.batch_size == 1 else "clips"
    step = f"{run.batch_size} {of} of {clips.num_frames} frames of {clips.width}x{clips.height}"
    return Estimate(step, parameters, parameters, memory, seconds)


def _transformer_of(settings: DiffusionTraining) -> TransformerConfig | None:
    """Of the model that learns. One that another stage is yet to make is that stage's; an official one is known."""
    config = settings.transformer
    parts = Path(settings.model).parts
    official = settings.model.lower().rpartition("cogvideox")[2].lstrip("-")
    if config is None and (settings.model in shipped_models() or Path(settings.model).exists()):
        config = read_spec(settings.model).transformer
    elif config is None and len(parts) == 3 and parts[0] == "runs" and parts[1] in STAGES:
        config = _transformer_of(STAGES[parts[1]]())
    elif config is None and official in PRESETS:
        config = PRESETS[official]()
    if config is not None and settings.add_image and not config.takes_image:
        config = replace(config, in_channels=2 * config.out_channels)
    return config


def _targets(settings: DiffusionTraining) -> list[ClipFormat]:
    """What the clips of each source have become, where it is a store; of other sources, what they will."""
    indices = [Path(source.store) / INDEX for source in settings.data]
    return [read_settings(index).target if index.is_file() else settings.target for index in indices] or [
        settings.target
    ]


def _largest(target: ClipFormat, config: TransformerConfig) -> BatchShape:
    """The largest clip that data become, as the transformer takes it. Where only the area is bound it is a square one,
    or of the one size that learned positions are made for."""
    height, width = target.height, target.width
    if config.use_learned_positional_embeddings and target.max_area is not None:
        height, width = PIXEL_RATIO * config.sample_height, PIXEL_RATIO * config.sample_width
    elif height is None or width is None:
        height = width = max(1, math.isqrt(target.max_area or 0) // target.multiple) * target.multiple
    frames, h, w = latent_shape(target.num_frames, height, width, patch_t=config.patch[0])
    return BatchShape(1, frames, h, w, config.max_text_seq_length)


def _factors(config: TransformerConfig, settings: DiffusionTraining) -> int:
    """Parameters of the LoRA: those of one block, in every block."""
    assert settings.lora is not None
    network = build_network(replace(config, num_layers=1))
    assert isinstance(network, Transformer)
    chosen = settings.lora
    factors = inject.create_lora(
        network, torch.Generator(), rank=chosen.rank, alpha=chosen.alpha, targets=chosen.targets
    )
    return config.num_layers * sum(of.down.numel() + of.up.numel() for of in factors.layers.values())


def _of_weights(trained: int, hidden: int, optim: OptimSettings) -> dict[str, int]:
    """Bytes of what belongs to the weights that learn, of which `hidden` are matrices of blocks."""
    by_muon = hidden if optim.name == "muon" else 0  # which has one moment where AdamW has two
    of_moment = FLOAT32 if optim.moments == "float32" else 1 + FLOAT32 / 256  # a byte, and the scale of each block
    return {
        "weights": FLOAT32 * trained,
        "gradients": FLOAT32 * trained,
        "optimizer": FLOAT32 * by_muon + round(2 * of_moment * (trained - by_muon)),
        "average": FLOAT32 * trained,
    }


def _kept_by_transformer(
    config: TransformerConfig, row: list[BatchShape], dtype: str, checkpointing: str, *, all_weights: bool = True
) -> int:
    """Bytes that the gradients of a row of clips need kept: of one block and of two, and so of all."""
    tokens = sum(clip.tokens(config) for clip in row)
    one, two = (_kept_in_row(replace(config, num_layers=k), row, dtype, all_weights) for k in (1, 2))
    block, stream = two - one, tokens * config.width * ITEMSIZE[dtype]
    if checkpointing == "none":
        return one + (config.num_layers - 1) * block
    of_each = stream if checkpointing == "full" else 2 * stream + tokens * config.num_attention_heads * FLOAT32
    return one + config.num_layers * of_each  # `one` has the block that is being computed again


def _kept_in_row(config: TransformerConfig, row: list[BatchShape], dtype: str, all_weights: bool) -> int:
    network = build_network(config)
    assert isinstance(network, Transformer)
    network.to(getattr(torch, dtype)).requires_grad_(all_weights)
    for block in network.blocks if not all_weights else ():
        for weight in block.attention.parameters():  # pyrefly: ignore[missing-attribute]
            weight.requires_grad_(weight.ndim == 2)  # a LoRA beside it needs the same input kept
    make = partial(torch.empty, device="meta", dtype=getattr(torch, dtype))
    latents = [make(config.in_channels, clip.frames, clip.height, clip.width) for clip in row]
    text = make(len(row), row[0].text_length, config.text_embed_dim)
    times = torch.empty(len(row), device="meta")
    with _kept(network) as kept:
        out = network.forward_packed(latents, text, times, ofs=config.ofs, attend=_as_kernels)
    return kept() + sum(tensor.nbytes for tensor in out)


def _kept_by_vae(settings: VAETraining, shape: tuple[int, int, int], discriminator: Discriminator | None) -> int:
    """Bytes that the gradients of one clip need kept."""
    vae, dtype = build_network(settings.model), getattr(torch, settings.run.precision)
    assert isinstance(vae, CausalVAE)
    vae.to(dtype)
    make = partial(torch.empty, device="meta", dtype=dtype)
    latents = latent_shape(*shape, ratio=settings.model.spatial_compression_ratio)
    conv_cache = (ConvCache, ConvCache) if settings.whole_clips else ()
    with _kept(vae) as kept:
        made, _, _ = reconstruct(
            vae, make(1, 3, *shape), make(1, settings.model.latent_channels, *latents), *conv_cache
        )
    total = kept()
    if discriminator is not None:
        discriminator.to(dtype)
        with _kept(discriminator) as kept:
            discriminator(made)
        total += kept()
    return total


@contextmanager
def _kept(network: nn.Module) -> Iterator[Callable[[], int]]:
    """`with _kept(network) as kept:` around a forward pass; then `kept()` is what autograd keeps of it, in bytes. Two
    views of one storage count once, and the weights not at all."""
    own = {weight.untyped_storage()._cdata for weight in network.parameters()}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(tensor.untyped_storage().nbytes() for key, tensor in found.items() if key not in own)


def _as_kernels(q: Heads, k: Heads, v: Heads, layout: StreamLayout) -> Heads:
    """Attention as the kernels for long rows do it, which keep what they got and gave, and no scores."""
    return _Kernel.apply(q, k, v)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(v)
        ctx.save_for_backward(q, k, v, out)
        return out


def _knows(machine: Hardware | None, precision: str) -> bool:
    """Whether the machine's rates are known in this precision. A CPU's are measured, in float32; a GPU's are listed."""
    if machine is None:
        return False
    return precision == "float32" if machine.device_type == "cpu" else machine.rates.peak is not None


def _seconds(machine: Hardware | None, precision: str, linear: float, attention: float, num_ranks: int) -> float | None:
    if machine is None or not _knows(machine, precision):
        return None
    return (linear / machine.rates.linear + attention / machine.rates.attention) / num_ranks
