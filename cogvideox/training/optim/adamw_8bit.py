"""AdamW whose two moments take a byte for each weight instead of four (Dettmers et al. 2022, "8-bit Optimizers via
Block-wise Quantization"), by torchao, which is imported when it is asked for.

In a checkpoint a moment is its codes and the scale of each block of them, so that a run resumes to the bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.training.config import OptimSettings

State = dict[str, Any]


def adamw_8bit(groups: list[dict], settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW over parameter groups. Moments of small vectors stay float32.

    Its steps are compiled, at the first one, which takes a compiler.
    Raises:
        UserError: torchao is not installed.
    """
    optimizer = torchao_adamw()(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
    optimizer.register_step_pre_hook(_rates_to_tensors)
    optimizer.register_state_dict_post_hook(_to_plain)
    optimizer.register_load_state_dict_pre_hook(_from_plain)
    return optimizer


def torchao_adamw() -> Callable[..., torch.optim.Optimizer]:
    """The class of torchao. Raises UserError when it is not installed."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "optim.moments=8bit takes torchao, which is not here: pip install 'cogvideox[quant]', or take float32"
        ) from error
    return AdamW8bit


def refuse_8bit(optimizer: torch.optim.Optimizer, state: State) -> None:
    """For an optimizer that is about to load a state of float32 moments.

    Raises:
        ValueError: the moments are of 8 bits.
    """
    if any(isinstance(value, dict) for moments in state["state"].values() for value in moments.values()):
        raise ValueError("its moments are of 8 bits; resume with optim.moments=8bit in one process")


def _rates_to_tensors(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """As numbers they would be part of the compiled code."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)


def _to_plain(optimizer: torch.optim.Optimizer, state: State) -> State:
    return {**state, "state": {i: {k: _plain(v) for k, v in moments.items()} for i, moments in state["state"].items()}}


def _plain(value: Any) -> Any:
    if not hasattr(value, "codes"):
        return value
    return {"codes": value.codes, "scale": value.scale, "signed": value.signed}


def _from_plain(optimizer: torch.optim.Optimizer, state: State) -> State:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        i: {name: _moment(value, parameters[i]) if name != "step" else value for name, value in of.items()}
        for i, of in state["state"].items()
    }
    return {**state, "state": moments}


def _moment(value: Any, parameter: Tensor) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    if isinstance(value, Tensor):
        if value.numel() >= 4096 and value.numel() % 256 == 0:  # those that torchao gives 8 bits
            raise ValueError("its moments are float32; resume with optim.moments=float32")
        return value
    codes, scale = value["codes"], value["scale"]
    block = codes.numel() // scale.numel()
    kind = {"device": parameter.device, "dtype": parameter.dtype}
    moment = OptimState8bit.zeros(codes.shape, value["signed"], block, **kind)
    moment.codes.copy_(codes)
    moment.scale.copy_(scale)
    return moment
