"""AdamW with 8-bit moments by torchao (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization").

The moments use a quarter of the memory. Checkpoints store their codes and block scales, so resuming is bit-exact.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.training.config import OptimSettings

State = dict[str, Any]


def adamw_8bit(groups: list[dict], settings: OptimSettings) -> torch.optim.Optimizer:
    """Build AdamW with 8-bit moments; the moments of small tensors stay in float32.

    torchao compiles the optimizer step at its first call, which requires a C++ compiler.

    Raises:
        UserError: torchao is not installed.
    """
    optimizer = import_torchao_adamw()(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
    optimizer.register_step_pre_hook(_lr_to_tensor)
    optimizer.register_state_dict_post_hook(_to_plain)
    optimizer.register_load_state_dict_pre_hook(_from_plain)
    return optimizer


def import_torchao_adamw() -> Callable[..., torch.optim.Optimizer]:
    """Import `torchao.optim.AdamW8bit`.

    Raises:
        UserError: torchao is not installed.
    """
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "optim.moments=8bit needs torchao, which is not installed: pip install 'cogvideox[quant]', or use float32"
        ) from error
    return AdamW8bit


def reject_8bit_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Pre-hook of `load_state_dict` for an optimizer with float32 moments.

    Raises:
        ValueError: the saved moments are 8-bit.
    """
    if any(isinstance(value, dict) for moments in state["state"].values() for value in moments.values()):
        raise ValueError("its moments are 8-bit; resume with optim.moments=8bit in a single process")


def _lr_to_tensor(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Convert learning rates to tensors; floats would be compiled as constants."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)


def _to_plain(optimizer: torch.optim.Optimizer, state: State) -> State:
    """Replace quantized moments by plain tensors, which a checkpoint can store."""
    return {**state, "state": {i: {k: _plain(v) for k, v in moments.items()} for i, moments in state["state"].items()}}


def _plain(value: Any) -> Any:
    if not hasattr(value, "codes"):
        return value
    return {"codes": value.codes, "scale": value.scale, "signed": value.signed}


def _from_plain(optimizer: torch.optim.Optimizer, state: State) -> State:
    """Inverse of `_to_plain`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        i: {name: _moment(value, parameters[i]) if name != "step" else value for name, value in saved.items()}
        for i, saved in state["state"].items()
    }
    return {**state, "state": moments}


def _moment(value: Any, parameter: Tensor) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    if isinstance(value, Tensor):
        if value.numel() >= 4096 and value.numel() % 256 == 0:  # torchao quantizes these
            raise ValueError("its moments are float32; resume with optim.moments=float32")
        return value
    codes, scale = value["codes"], value["scale"]
    block = codes.numel() // scale.numel()
    moment = OptimState8bit.zeros(codes.shape, value["signed"], block, device=parameter.device, dtype=parameter.dtype)
    moment.codes.copy_(codes)
    moment.scale.copy_(scale)
    return moment
