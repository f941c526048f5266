"""What is asked of a model, with nothing left open, and what makes the same frames again. Imports no torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from cogvideox import config, geometry
from cogvideox.diffusion.config import Sampler
from cogvideox.generation.request.provenance import Adapter, Source
from cogvideox.transformer.config import GridRule

Task = Literal["text", "image", "video", "extend", "invert"]
ImageLatentScale = Literal["sat", "diffusers"]
"""How the latents of an image are scaled where the VAE's configuration says `invert_scale_latents`, as in the 1.5 image
model: not at all, as in the official sampling code, or divided by the scaling factor, as in diffusers, whose pictures
are darker for it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video, with nothing left open. Sizes in pixels, `fps` in frames a second.

    From `eta` on, what most videos are made without; their metadata say it only where it is used.

    eta: how much noise the sampler adds in each step, 0 to 1; None is the sampler's own, 0 of ddim and 1 of dpm++.
    smooth_guidance: the scale rises over the steps from 1 to 1 + guidance_scale, see `diffusion.guidance.smooth`.
    guidance_interval: guidance only in the steps from one fraction of them to another; elsewhere the prompt alone.
    sequential_guidance: the two halves of guidance one after the other, which takes less memory.
    cache: the error that steps may add which are not computed, see `generation.sampling.step_cache`; None computes all
        of them.
    position_rule: how rotary positions follow the size, where not as the model's settings say.
    image, video: what the video is made from, beside the words.
    strength: how much of `video` is made anew: that share of the steps is run. None where it does not apply.
    extend: `video` is continued; `num_frames` counts its frames too.
    invert: `video` is inverted to noise, and what it was on the way guides the new video's attention.
    window, overlap: frames that are made at a time, and how many of them neighbours share; None is all at once.
    fit: how `image` and `video` fill another size; None is "cover".
    image_latent_scale: of the image of an image model; None is "sat".
    """

    prompt: str
    negative_prompt: str
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_guidance: bool
    sampler: Sampler
    seed: int
    fps: float
    eta: float | None = None
    smooth_guidance: bool = False
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    sequential_guidance: bool = False
    cache: float | None = None
    position_rule: GridRule | None = None
    image: Source | None = None
    video: Source | None = None
    strength: float | None = None
    extend: bool = False
    invert: bool = False
    window: int | None = None
    overlap: int | None = None
    fit: geometry.FitMode | None = None
    image_latent_scale: ImageLatentScale | None = None

    @property
    def task(self) -> Task:
        """What kind of work it is."""
        if self.video is not None:
            return "extend" if self.extend else "invert" if self.invert else "video"
        return "image" if self.image is not None else "text"

    @property
    def num_steps(self) -> int:
        """Steps that are run: of `num_inference_steps`, the share that `strength` says, rounded down."""
        return int(self.num_inference_steps * (1.0 if self.strength is None else self.strength))


@dataclass(frozen=True, kw_only=True)
class Replay(Request):
    """A request and where it was run: what makes the same frames again. This is the `x.json` of an `x.mp4`.

    weights: how the matrices were stored, see `pretrained.offload.planner`.
    float8: whether those of the transformer's blocks were multiplied in 8 bits, see `transformer.float8`.
    """

    model: str
    device: str
    dtype: str
    cogvideox: str
    torch: str
    loras: tuple[Adapter, ...] = ()
    weights: Literal["exact", "int8", "fp8"] = "exact"
    float8: bool = False

    def metadata(self) -> dict[str, Any]:
        """As JSON values, without what was not used. `config.from_dict` undoes it."""
        values = config.to_dict(self)
        return {field.name: values[field.name] for field in fields(self) if getattr(self, field.name) != field.default}
