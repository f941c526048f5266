"""Activation checkpointing, torch.compile and FSDP2, applied to a network in place.

    parallelize(transformer, transformer.blocks, ranks, checkpointing="selective", precision=torch.bfloat16)
    optimizer = torch.optim.AdamW(transformer.parameters(), ...)
    loss.backward()                                          # gradients are the mean over all ranks
    optimizer.step()

FSDP2 shards weights, gradients and optimizer states over the ranks, gathers the weights of a block when it runs, and
averages gradients over the ranks. For a loss that is a mean over the K clips of a step, a rank therefore divides the
summed loss of its clips by K and multiplies it by the number of data-parallel ranks.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cogvideox.parallel.mesh import Ranks

Checkpointing = Literal["none", "full", "selective"]
"""Activations that a block saves for the backward pass: all of them ("none"), only its input ("full"), or its input and
the attention output ("selective").

Attention is the most expensive operation to recompute, and its output is as small as any other activation.
"""

_ATTENTION_OPS = {
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "torch_attn::_varlen_attn",  # packed rows; not imported here, because its module imports torch.compile
}


def parallelize(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    ranks: Ranks | None = None,
    *,
    checkpointing: Checkpointing = "none",
    compile: bool = False,
    precision: torch.dtype | None = None,
) -> None:
    """Apply activation checkpointing, torch.compile and FSDP2 to `model`, in this order and in place.

    Parameter names do not change. Create the optimizer afterwards, because sharding replaces the parameters.

    Args:
        blocks: modules of the model that are recomputed, compiled and gathered one at a time.
        ranks: ranks to shard over; None for a single process, without sharding.
        checkpointing: see `Checkpointing`.
        compile: whether to compile each block.
        precision: dtype of weights and activations in computation, if sharded; shards, gradient reduction and outputs
            are float32. None: the dtype of the model. Ignored for a single process, which uses autocast.
    """
    blocks = list(blocks)
    for block in blocks:
        if checkpointing != "none":
            block.forward = _checkpointed(block.forward, checkpointing)
        if compile:
            block.forward = torch.compile(block.forward)
    if ranks is None:
        return
    # FSDP would cast all inputs, but position tables must stay float32. So hooks cast the inputs of the linear layers
    # outside of the blocks, which are latents and prompt embeddings.
    inner = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    outer = replace(inner, output_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=ranks.world_mesh, mp_policy=inner)
    # FSDP warns against in-place changes of returned views, which do not occur here.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor", UserWarning)
    # By default, the root's weights stay gathered after a pass without gradients, even if the shards change afterwards.
    fully_shard(model, mesh=ranks.world_mesh, mp_policy=outer, reshard_after_forward=True)
    for layer in model.children():
        if precision is not None and isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, args: (args[0].to(precision), *args[1:]))
    if hasattr(model, "forward_packed"):
        register_fsdp_forward_method(model, "forward_packed")
    for module, name in ((model, "precompute_modulation"), *((block, "compute_modulation") for block in blocks)):
        if hasattr(module, name):
            setattr(module, name, _with_gathered_weights(module, getattr(module, name)))


def local_shard(x: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, or the tensor itself if it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], group: ProcessGroup) -> None:
    """Average the gradients of a replicated (not sharded) model over all ranks, in place.

    Missing gradients count as 0.
    """
    grads: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    flat /= group.size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads])):
        grad.copy_(mean.view_as(grad))


def _checkpointed(forward: Callable[..., Any], mode: Checkpointing) -> Callable[..., Any]:
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _keep_attention)}
    return partial(checkpoint, forward, use_reentrant=False, **(contexts if mode == "selective" else {}))


def _with_gathered_weights(module: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that it gathers the weights of its module if it is called outside of a forward pass."""

    def gathered(*args: Any) -> Any:
        if not isinstance(next(module.parameters()), DTensor):
            return method(*args)
        assert isinstance(module, FSDPModule)
        assert not torch.is_grad_enabled()  # the gathered weights are freed before a backward pass
        module.unshard()
        try:
            return method(*args)
        finally:
            module.reshard()

    return gathered


def _keep_attention(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op.name() in _ATTENTION_OPS else CheckpointPolicy.PREFER_RECOMPUTE
