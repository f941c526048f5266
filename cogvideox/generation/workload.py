"""Workload of a request for the memory planner, and fallbacks after an out-of-memory error. Imports no torch."""

from collections.abc import Sequence

from cogvideox import geometry
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.plan import MemoryPlan, Workload
from cogvideox.pretrained.offload.vae_cost import VAESlicing

MAX_STRIPS = 32


def largest_workload(requests: Sequence[Request], spec: ModelSpec) -> Workload:
    """Return the workload of the request with the most pixels per step; ties are broken by total pixels."""

    def size(request: Request) -> tuple[int, int]:
        pixels = request.height * request.width
        return pixels * min(request.window or request.num_frames, request.num_frames), pixels * request.num_frames

    return workload_of(max(requests, key=size), spec)


def workload_of(request: Request, spec: ModelSpec) -> Workload:
    """Return the workload of a request."""
    window_frames = min(request.window or request.num_frames, request.num_frames)
    chained = request.window is not None and spec.transformer.takes_image
    if request.video is not None:
        num_input_frames = geometry.round_down_frame_count(request.overlap or request.num_frames)
    else:
        num_input_frames = int(request.image is not None)
    sequential = request.guided and request.sequential_guidance
    return Workload(
        num_frames=window_frames if chained else request.num_frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_steps,
        window_frames=window_frames,
        # With `invert`, the input video is denoised in the same batch.
        batch_size=(2 if request.guided and not sequential else 1) * (2 if request.invert else 1),
        calls_per_step=2 if sequential else 1,
        num_prompts=2 if request.guided else 1,
        num_input_frames=num_input_frames,
    )


def default_workload(spec: ModelSpec) -> Workload:
    """Return the workload of a request with the model's defaults."""
    settings = spec.settings
    num_texts = 1 if settings.guidance_scale == 1 else 2
    return Workload(
        num_frames=settings.num_frames,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.num_inference_steps,
        window_frames=settings.num_frames,
        batch_size=num_texts,
        num_prompts=num_texts,
        num_input_frames=int(spec.transformer.takes_image),
    )


def next_setting(plan: MemoryPlan, request: Request | None = None) -> str:
    """Suggest a setting after an out-of-memory error.

    Args:
        request: the request being generated; None while the model was loading.
    """
    if plan.strategy != "group_offload":
        return "load the model with memory='low' (--memory low)"
    if request is None:
        return "close other programs that use it"
    if request.guided and not request.sequential_guidance:
        return "use sequential_guidance, which halves the activations"
    return "use fewer frames, a window, or a smaller height and width"


def smaller_slicing(slicing: VAESlicing, num_rows: int) -> VAESlicing | None:
    """Return the next VAE memory mode that uses less memory: strips of half the height, down to one row of latents,
    then offloading; None if there is none."""
    if slicing.strips < num_rows and slicing.strips < MAX_STRIPS:
        return VAESlicing(min(2 * slicing.strips, num_rows), slicing.offload)
    return None if slicing.offload else VAESlicing(slicing.strips, True)
