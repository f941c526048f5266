"""Handling of out-of-memory errors in generation: VAE retries with smaller slices, and advice to the user."""

from collections.abc import Callable
from typing import TypeVar

from cogvideox.errors import is_out_of_memory
from cogvideox.generation.request.request import Request
from cogvideox.pretrained.offload.plan import MemoryPlan
from cogvideox.pretrained.offload.vae_cost import VAESlicing

MAX_STRIPS = 32

Result = TypeVar("Result")


def none_if_out_of_memory(function: Callable[[], Result]) -> Result | None:
    """Return the result of a function, or None if it ran out of memory.

    The exception is dropped because its traceback keeps the tensors of the failed attempt alive.
    """
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def suggest_setting(plan: MemoryPlan, request: Request | None = None) -> str:
    """Suggest a setting that needs less memory than a plan whose estimate was exceeded.

    Args:
        request: the request that failed; None if loading the model failed.
    """
    if plan.strategy != "group_offload":
        return "load the model with memory='low' (--memory low)"
    if request is None:
        return "close other programs that use memory"
    if request.guided and not request.sequential_guidance:
        return "use sequential_guidance, which halves the activations"
    return "use fewer frames, a window, or a smaller height and width"


def smaller_slicing(slicing: VAESlicing, num_rows: int) -> VAESlicing | None:
    """Return the next slicing of the VAE that uses less memory; None after the smallest.

    The number of strips is doubled, up to one strip per row of latents; then feature maps are offloaded.
    """
    if slicing.strips < num_rows and slicing.strips < MAX_STRIPS:
        return VAESlicing(min(2 * slicing.strips, num_rows), slicing.offload)
    return None if slicing.offload else VAESlicing(slicing.strips, True)
