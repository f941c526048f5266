"""A network whose blocks are recomputed, compiled and sharded over ranks: it is called, and trained, as before.

    wrap(transformer, transformer.blocks, ranks, checkpointing="selective", precision=torch.bfloat16)
    optimizer = torch.optim.AdamW(transformer.parameters(), ...)
    loss.backward()                                          # gradients: the mean over all ranks
    norm = clip_gradients(transformer.parameters(), 1.0)

FSDP2 keeps a share of every weight, of its gradient and of the optimizer's state on each rank, gathers the weights of a
block when they are needed, and averages gradients over the ranks. A rank with k of the K clips of a step therefore
counts them fully when it divides their summed loss by K and multiplies it by the number of data ranks.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.attention.varlen  # registers torch_attn._varlen_attn
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cogvideox.parallel.mesh import Ranks

Checkpointing = Literal["none", "full", "selective"]
"""What a block keeps for its gradients: all of it, its input, or that and what attention gave.

To attend once more costs the most of all that is recomputed, and its result is as small as any.
"""

_ATTENTIONS = {
    op.default
    for op in (
        torch.ops.aten._scaled_dot_product_flash_attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_efficient_attention,
        torch.ops.aten._scaled_dot_product_cudnn_attention,
        torch.ops.torch_attn._varlen_attn,  # packed rows
    )
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
    """Changes `model` in place, in the one order that works: recomputing inside, compiling around it, sharding outside.

    Names of parameters stay. Make the optimizer afterwards, because sharding replaces the parameters.

    Args:
        blocks: the parts of the model that are recomputed, compiled and gathered one at a time.
        ranks: whom to share with; None is this process alone, and no sharding.
        precision: of weights and activations in use; the shards, gradients across ranks and results are float32. None
            is the model's own. A process alone takes autocast instead.
    """
    blocks = list(blocks)
    for block in blocks:
        if checkpointing != "none":
            block.forward = _recomputed(block.forward, checkpointing)
        if compile:
            block.forward = torch.compile(block.forward)
    if ranks is None:
        return
    # Tables of positions are float32 and have to stay so; FSDP would cast whatever comes in. So what is cast are the
    # latents and texts, where the model's own layers take them.
    inner = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    outer = replace(inner, output_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=ranks.world_mesh, mp_policy=inner)
    # FSDP warns of changes in place of what a network returns as a view of a tensor; there are none here.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor", UserWarning)
    # By default the outermost weights stay gathered after a pass without gradients, even when the shards then change.
    fully_shard(model, mesh=ranks.world_mesh, mp_policy=outer, reshard_after_forward=True)
    for layer in model.children():
        if precision is not None and isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda _, args: (args[0].to(precision), *args[1:]))
    if hasattr(model, "forward_packed"):
        register_fsdp_forward_method(model, "forward_packed")
    for part, name in ((model, "precompute_modulation"), *((block, "compute_modulation") for block in blocks)):
        if hasattr(part, name):
            setattr(part, name, _between_passes(part, getattr(part, name)))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Shortens the gradient, shared among ranks or not, to `max_norm`; returns its whole norm before, a scalar."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def local_shard(x: Tensor) -> Tensor:
    """This rank's share of a tensor; the tensor itself where it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], group: ProcessGroup) -> None:
    """The mean over all ranks of the gradients of a model that every rank has whole.

    A weight that some rank has no gradient for counts there as 0.
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


def _recomputed(forward: Callable[..., Any], how: Checkpointing) -> Callable[..., Any]:
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _keep_attention)}
    return partial(checkpoint, forward, use_reentrant=False, **(contexts if how == "selective" else {}))


def _between_passes(part: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that uses a part's own weights, called by itself, or in a forward pass, which has them already."""

    def with_weights(*args: Any) -> Any:
        if not isinstance(next(part.parameters()), DTensor):
            return method(*args)
        assert isinstance(part, FSDPModule)
        assert not torch.is_grad_enabled()  # there would be no weights to differentiate by
        part.unshard()
        try:
            return method(*args)
        finally:
            part.reshard()

    return with_weights


def _keep_attention(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _ATTENTIONS else CheckpointPolicy.PREFER_RECOMPUTE
