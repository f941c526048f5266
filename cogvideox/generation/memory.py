"""What is looked at before any weight of a model is read: whether prompts fit, and how it is placed on this machine."""

from collections.abc import Sequence

import torch

from cogvideox import geometry
from cogvideox.errors import UserError
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.planner import MemoryPlan, WeightFormat, Workload, parse_memory, plan_memory
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
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
) -> MemoryPlan:
    """How the model is to be placed on that device for a request, or for one of the model's own size.

    Args:
        memory, weights: as for `CogVideoX.from_pretrained`.
        measured: time the CPU for a tenth of a second, for a better guess of the seconds.

    Raises:
        UserError: nothing fits, or there is no such preference.
    """
    storages: dict[str, WeightFormat] = {"exact": "exact", "int8": "int8", "fp8": "fp8"}
    if weights not in storages:
        raise UserError(f"weights={weights!r} must be one of {', '.join(storages)}")
    machine = detect_hardware(device, str(dtype).removeprefix("torch."), measured=measured)
    demand = default_demand(spec) if request is None else demand_of(request, spec)
    return plan_memory(profile_model(spec), demand, machine, parse_memory(memory), storages[weights])


def check_texts(requests: Sequence[Request], spec: ModelSpec) -> None:
    """Whether the model's text length holds the prompts, which needs no weights.

    Raises:
        UserError: one is too long; the sentence tells by how much.
    """
    texts = {text for request in requests for text in (request.prompt, request.negative_prompt)}
    Tokenizer.from_folder(spec.path / "tokenizer").encode(sorted(texts), spec.settings.text_length)


def demand_of(request: Request, spec: ModelSpec) -> Workload:
    """What a plan has to know of a request."""
    window_frames = request.num_frames if request.window is None else min(request.window, request.num_frames)
    chained = request.window is not None and spec.transformer.takes_image
    if request.video is not None:
        num_input_frames = geometry.round_down_frames(request.overlap or request.num_frames)
    else:
        num_input_frames = int(request.image is not None)
    guided = request.guidance_scale != 1
    return Workload(
        num_frames=window_frames if chained else request.num_frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_steps,
        window_frames=window_frames,
        # An inverted clip is denoised beside itself.
        batch_size=(2 if guided and not request.sequential_guidance else 1) * (2 if request.invert else 1),
        calls_per_step=2 if guided and request.sequential_guidance else 1,
        num_prompts=2 if guided else 1,
        num_input_frames=num_input_frames,
    )


def default_demand(spec: ModelSpec) -> Workload:
    """Of a request that says nothing but the prompt."""
    own = spec.settings
    return Workload(
        num_frames=own.num_frames,
        height=own.height,
        width=own.width,
        num_inference_steps=own.num_inference_steps,
        window_frames=own.num_frames,
        batch_size=1 if own.guidance_scale == 1 else 2,
        num_prompts=1 if own.guidance_scale == 1 else 2,
        num_input_frames=int(spec.transformer.takes_image),
    )


def next_setting(plan: MemoryPlan, request: Request | None = None) -> str:
    """What to try where memory ran out all the same: for a request, or while the model was loaded."""
    if plan.placement != "group_offload":
        return "load the model with memory='low' (--memory low)"
    if request is None:
        return "end other programs that hold it"
    if request.guidance_scale != 1 and not request.sequential_guidance:
        return "try sequential_guidance, which takes half of the activations"
    return "ask for fewer frames, a window, or a smaller height and width"


def smaller(how: VAEMemoryMode, rows: int) -> VAEMemoryMode | None:
    """The next way of decoding that takes less memory: strips of half the height, at least of one row of latents, then
    with what waits outside. None is that there is none."""
    if how.strips < rows and how.strips < 32:
        return VAEMemoryMode(min(2 * how.strips, rows), how.offload)
    return None if how.offload else VAEMemoryMode(how.strips, True)
