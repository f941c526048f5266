"""What is looked at before any weight of a model is read: whether prompts fit, and how it is placed on this machine."""

from collections.abc import Sequence

import torch

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.hardware import look
from cogvideox.pretrained.offload.placement import model_of
from cogvideox.pretrained.offload.planner import Demand, Plan, Storage, plan, read_memory
from cogvideox.pretrained.offload.vae_cost import Decoding
from cogvideox.text.tokenizer import Tokenizer


def plan_for(
    spec: ModelSpec,
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
    demand = default_demand(spec) if request is None else demand_of(request, spec)
    return plan(model_of(spec), demand, machine, read_memory(memory), storages[weights])


def check_texts(requests: Sequence[Request], spec: ModelSpec) -> None:
    """Whether the model's text length holds the prompts, which needs no weights.

    Raises:
        UserError: one is too long; the sentence tells by how much.
    """
    texts = {text for request in requests for text in (request.prompt, request.negative_prompt)}
    Tokenizer.from_folder(spec.path / "tokenizer").encode(sorted(texts), spec.settings.text_length)


def demand_of(request: Request, spec: ModelSpec) -> Demand:
    """What a plan has to know of a request."""
    at_once = request.num_frames if request.window is None else min(request.window, request.num_frames)
    chained = request.window is not None and spec.transformer.takes_image
    if request.video is not None:
        num_given = geometry.whole_frames(request.overlap or request.num_frames)
    else:
        num_given = int(request.image is not None)
    guided = request.guidance_scale != 1
    return Demand(
        num_frames=at_once if chained else request.num_frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_steps,
        at_once=at_once,
        # An inverted clip is denoised beside itself.
        batch=(2 if guided and not request.sequential_guidance else 1) * (2 if request.invert else 1),
        calls=2 if guided and request.sequential_guidance else 1,
        num_texts=2 if guided else 1,
        num_given=num_given,
    )


def default_demand(spec: ModelSpec) -> Demand:
    """Of a request that says nothing but the prompt."""
    own = spec.settings
    return Demand(
        num_frames=own.num_frames,
        height=own.height,
        width=own.width,
        num_inference_steps=own.num_inference_steps,
        at_once=own.num_frames,
        batch=1 if own.guidance_scale == 1 else 2,
        num_texts=1 if own.guidance_scale == 1 else 2,
        num_given=int(spec.transformer.takes_image),
    )


def next_setting(plan: Plan, request: Request | None = None) -> str:
    """What to try where memory ran out all the same: for a request, or while the model was loaded."""
    if plan.placement != "streamed":
        return "load the model with memory='low' (--memory low)"
    if request is None:
        return "end other programs that hold it"
    if request.guidance_scale != 1 and not request.sequential_guidance:
        return "try sequential_guidance, which takes half of the activations"
    return "ask for fewer frames, a window, or a smaller height and width"


def smaller(how: Decoding, rows: int) -> Decoding | None:
    """The next way of decoding that takes less memory: strips of half the height, at least of one row of latents, then
    with what waits outside. None is that there is none."""
    if how.strips < rows and how.strips < 32:
        return Decoding(min(2 * how.strips, rows), how.offload)
    return None if how.offload else Decoding(how.strips, True)
