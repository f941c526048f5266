"""What a request asks of memory, and what is said when there is not enough of it all the same. Imports no torch."""

from cogvideox import geometry
from cogvideox.bundle.layout import Description
from cogvideox.bundle.memory import Demand, Plan
from cogvideox.bundle.vae_sizes import Decoding
from cogvideox.generation.request import Request


def demand_of(request: Request, about: Description) -> Demand:
    """What a plan has to know of a request."""
    at_once = request.num_frames if request.window is None else min(request.window, request.num_frames)
    chained = request.window is not None and about.transformer.takes_image
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


def default_demand(about: Description) -> Demand:
    """Of a request that says nothing but the prompt."""
    own = about.settings
    return Demand(
        num_frames=own.num_frames,
        height=own.height,
        width=own.width,
        num_inference_steps=own.num_inference_steps,
        at_once=own.num_frames,
        batch=1 if own.guidance_scale == 1 else 2,
        num_texts=1 if own.guidance_scale == 1 else 2,
        num_given=int(about.transformer.takes_image),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory: a GPU's has a class of its own, a CPU's only a sentence."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # which only torch could import
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


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
