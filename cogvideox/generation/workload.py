"""Workload of a request, from which the memory planner estimates memory and time."""

from collections.abc import Sequence

from cogvideox import geometry
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.plan import Workload


def largest_workload(requests: Sequence[Request], spec: ModelSpec) -> Workload:
    """Return the workload of the request with the most pixels per denoising step; ties are broken by total pixels."""

    def size(request: Request) -> tuple[int, int]:
        pixels = request.height * request.width
        return pixels * min(request.window or request.num_frames, request.num_frames), pixels * request.num_frames

    return workload_of(max(requests, key=size), spec)


def workload_of(request: Request, spec: ModelSpec) -> Workload:
    """Return the workload of a request."""
    window_frames = min(request.window or request.num_frames, request.num_frames)
    chained = request.window is not None and spec.transformer.is_image_to_video
    if request.video is not None:
        num_input_frames = geometry.round_down_frame_count(request.overlap or request.num_frames)
    else:
        num_input_frames = int(request.image is not None)
    sequential = request.guided and request.sequential_guidance
    return Workload(
        num_frames=window_frames if chained else request.num_frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_denoising_steps,
        window_frames=window_frames,
        # With `invert`, the batch also contains the input video.
        batch_size=(2 if request.guided and not sequential else 1) * (2 if request.invert else 1),
        calls_per_step=2 if sequential else 1,
        num_prompts=2 if request.guided else 1,
        num_input_frames=num_input_frames,
    )


def default_workload(spec: ModelSpec) -> Workload:
    """Return the workload of a request with the model's defaults."""
    settings = spec.settings
    num_prompts = 1 if settings.guidance_scale == 1 else 2
    return Workload(
        num_frames=settings.num_frames,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.num_inference_steps,
        window_frames=settings.num_frames,
        batch_size=num_prompts,
        num_prompts=num_prompts,
        num_input_frames=int(spec.transformer.is_image_to_video),
    )
