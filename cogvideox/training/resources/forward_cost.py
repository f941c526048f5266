"""Memory and operations of a forward pass, measured on the meta device: nothing is allocated or computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from cogvideox.geometry import latent_shape
from cogvideox.pretrained.components import build_network
from cogvideox.pretrained.offload.transformer_cost import ITEMSIZE, BatchShape
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.config import VAETraining
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.decoder import SpanCorruptionModel
from cogvideox.training.vae.trainer import reconstruct
from cogvideox.transformer.attention import Heads, Keys, StreamLayout
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.model import Transformer
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.vae.losses.discriminator import Discriminator
from cogvideox.vae.model import CausalVAE

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "_unsafe_view"}
"""Matrix products, and the view of their results."""


@dataclass(frozen=True)
class ForwardCost:
    """Memory and operations of a forward pass with autograd.

    Attributes:
        saved: bytes of the tensors that autograd saves.
        written: bytes of the results of all operations but matrix products, whose measured rates include writing.
        calls: number of operations, without views.
    """

    saved: int
    written: int
    calls: int

    def times(self, count: int) -> "ForwardCost":
        """Return the cost of several forward passes, one after the other."""
        return ForwardCost(self.saved, count * self.written, count * self.calls)


def transformer_forward(
    config: TransformerConfig, row: list[BatchShape], dtype: str, *, all_weights: bool = True
) -> ForwardCost:
    """Return the cost of a row of clips without activation checkpointing, extrapolated from one and two blocks."""
    one, two = (_row_forward(replace(config, num_layers=k), tuple(row), dtype, all_weights) for k in (1, 2))
    more = config.num_layers - 1
    return ForwardCost(
        one.saved + more * (two.saved - one.saved),
        one.written + more * (two.written - one.written),
        one.calls + more * (two.calls - one.calls),
    )


def transformer_activations(
    config: TransformerConfig, row: list[BatchShape], dtype: str, checkpointing: str, *, all_weights: bool = True
) -> int:
    """Return the bytes of saved activations of a row of clips."""
    if checkpointing == "none":
        return transformer_forward(config, row, dtype, all_weights=all_weights).saved
    tokens = sum(clip.tokens(config) for clip in row)
    saved = stream = tokens * config.width * ITEMSIZE[dtype]
    if checkpointing == "selective":  # also the attention output and its log-sum-exp
        saved += stream + tokens * config.num_attention_heads * torch.float32.itemsize
    recomputed = _row_forward(replace(config, num_layers=1), tuple(row), dtype, all_weights)
    return recomputed.saved + config.num_layers * saved


def with_recomputation(
    forward: ForwardCost, config: TransformerConfig, row: list[BatchShape], dtype: str, checkpointing: str
) -> ForwardCost:
    """Add a third of the operations that activation checkpointing recomputes.

    A forward and a backward pass count as three forward passes, so the recomputation of a forward pass is a third of
    it. "full" recomputes all operations; those outside of the blocks are neglected. "selective" recomputes all but
    attention, which is one operation per block, with a result of the size of the block's input.
    """
    if checkpointing == "none":
        return forward
    kept = config.num_layers if checkpointing == "selective" else 0
    stream = sum(clip.tokens(config) for clip in row) * config.width * ITEMSIZE[dtype]
    written = forward.written + (forward.written - kept * stream) / 3
    return replace(forward, written=round(written), calls=round(forward.calls + (forward.calls - kept) / 3))


@lru_cache(maxsize=64)
def _row_forward(config: TransformerConfig, row: tuple[BatchShape, ...], dtype: str, all_weights: bool) -> ForwardCost:
    network = build_network(config)
    assert isinstance(network, Transformer)
    network.to(getattr(torch, dtype)).requires_grad_(all_weights)
    for block in network.blocks if not all_weights else ():
        for name, weight in block.named_parameters():
            # A LoRA saves the same input as a trained matrix.
            weight.requires_grad_("attention." in name and weight.ndim == 2)
    empty = partial(torch.empty, device="meta", dtype=getattr(torch, dtype))
    latents = [empty(config.in_channels, clip.frames, clip.height, clip.width) for clip in row]
    text = empty(len(row), row[0].text_length, config.text_embed_dim)
    times = torch.empty(len(row), device="meta")
    with _saved_tensors(network) as saved, _Operations() as operations:
        out = network.forward_packed(latents, text, times, ofs=config.ofs, attend=_fused_attention)
    saved_bytes = saved() + sum(tensor.nbytes for tensor in out)
    return ForwardCost(saved_bytes, operations.written, operations.calls)


@lru_cache(maxsize=64)
def text_encoder_forward(settings: TextEncoderTraining) -> ForwardCost:
    """Return the cost of the span-corruption loss of a batch."""
    size, length, dtype = settings.run.batch_size, settings.text_length, getattr(torch, settings.run.precision)
    with torch.device("meta"):
        model = SpanCorruptionModel(T5Encoder(settings.model), settings.num_decoder_layers).to(dtype)
        source, target = (torch.zeros(size, n, dtype=torch.long) for n in (length, length + 2))
        model(source, target)  # later calls reuse its position buckets
    with _saved_tensors(model) as saved, _Operations() as operations:
        loss = model(source, target)
    return ForwardCost(saved() + loss.nbytes, operations.written, operations.calls)


def vae_activations(settings: VAETraining, shape: tuple[int, int, int], discriminator: Discriminator | None) -> int:
    """Return the bytes of saved activations of one clip."""
    vae, dtype = build_network(settings.model), getattr(torch, settings.run.precision)
    assert isinstance(vae, CausalVAE)
    vae.to(dtype)
    empty = partial(torch.empty, device="meta", dtype=dtype)
    model = settings.model
    latents = latent_shape(*shape, ratio=model.spatial_compression_ratio, frame_ratio=model.temporal_compression_ratio)
    conv_cache = (ConvCache, ConvCache) if settings.whole_clips else ()
    with _saved_tensors(vae) as saved:
        output, _, _ = reconstruct(
            vae, empty(1, 3, *shape), empty(1, settings.model.latent_channels, *latents), *conv_cache
        )
    total = saved()
    if discriminator is not None:
        discriminator.to(dtype)
        with _saved_tensors(discriminator) as saved:
            discriminator(output)
        total += saved()
    return total


class _Operations(TorchDispatchMode):
    """Counts the operations in its context, and the bytes of their results. Views are not counted, and of matrix
    products only the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.written = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.calls += 1
            if func.overloadpacket.__name__ in _PRODUCTS:
                return results
            for result in results if isinstance(results, tuple | list) else [results]:
                self.written += result.nbytes if isinstance(result, Tensor) else 0
        return results


@contextmanager
def _saved_tensors(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of bytes that autograd has saved in the block.

    Views of the same storage count once. Weights are not counted.
    """
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        yield lambda: sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)


def _fused_attention(q: Heads, k: Keys, v: Keys, layout: StreamLayout) -> Heads:
    """Attention that saves the same tensors as fused kernels: inputs and output, but no scores."""
    return _FusedAttention.apply(q, k, v)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = v.new_empty(q.shape)
        ctx.save_for_backward(q, k, v, out)
        return out
