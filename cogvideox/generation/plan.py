"""What is looked at before any weight of a model is read: whether prompts fit, and how it is placed on this machine."""

from collections.abc import Sequence

import torch

from cogvideox.bundle.layout import Description
from cogvideox.bundle.machine import look
from cogvideox.bundle.memory import Plan, Storage, plan, read_memory
from cogvideox.bundle.placement import model_of
from cogvideox.errors import UserError
from cogvideox.generation.demand import default_demand, demand_of
from cogvideox.generation.request import Request
from cogvideox.text.tokenizer import Tokenizer


def plan_for(
    about: Description,
    device: torch.device,
    dtype: torch.dtype,
    *,
    memory: int | str = "auto",
    weights: str = "exact",
    request: Request | None = None,
    measured: bool = False,
) -> Plan:
    """How the model is to be placed on that device for a request, or for one of the model's own size.

    Args:
        memory, weights: as for `CogVideoX.from_pretrained`.
        measured: time the CPU for a tenth of a second, for a better guess of the seconds.

    Raises:
        UserError: nothing fits, or there is no such preference.
    """
    storages: dict[str, Storage] = {"exact": "exact", "int8": "int8", "fp8": "fp8"}
    if weights not in storages:
        raise UserError(f"weights={weights!r} must be one of {', '.join(storages)}")
    machine = look(device, str(dtype).removeprefix("torch."), measured=measured)
    demand = default_demand(about) if request is None else demand_of(request, about)
    return plan(model_of(about), demand, machine, read_memory(memory), storages[weights])


def check_texts(requests: Sequence[Request], about: Description) -> None:
    """Whether the model's text length holds the prompts, which needs no weights.

    Raises:
        UserError: one is too long; the sentence tells by how much.
    """
    texts = {text for request in requests for text in (request.prompt, request.negative_prompt)}
    Tokenizer.from_folder(about.path / "tokenizer").encode(sorted(texts), about.settings.text_length)
