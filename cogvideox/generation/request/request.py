"""Options of a generation request (`Request`) and of the model (`LoadOptions`).

Every option of `cogvideox generate` and of `CogVideoX` is declared in these dataclasses only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cogvideox import geometry
from cogvideox.diffusion.config import Sampler
from cogvideox.generation.request.input_sources import InputSource
from cogvideox.options import Option
from cogvideox.pretrained.model_settings import NullText
from cogvideox.pretrained.offload.transformer_cost import WeightFormat
from cogvideox.transformer.config import PositionRule

Task = Literal["text", "image", "video", "extend", "invert"]
ImageLatentScale = Literal["sat", "diffusers"]
"""Scaling of image latents if the VAE's config sets `invert_scale_latents`, as in the 1.5 image-to-video model: "sat"
leaves them unscaled, as in the official sampling code; "diffusers" divides them by the scaling factor, which gives
darker videos."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for one video, in which `builder.build_request` has set all defaults.

    Each field is a keyword of `CogVideoX.generate`, a flag of `cogvideox generate` and a key of the JSON sidecar. The
    sidecar omits fields that equal their default here.
    """

    prompt: Annotated[
        str,
        Option("description of the video (default: the model's example)", "prompt", "PROMPT", True, flags=("prompt",)),
    ]
    negative_prompt: Annotated[str, Option("description of content to avoid", "guidance", common=True)]
    num_frames: Annotated[int, Option("number of frames, 4k+1 such as 9 or 49", "size", common=True)]
    height: Annotated[int, Option("height in pixels, a multiple of 16", "size", common=True)]
    width: Annotated[int, Option("width in pixels, a multiple of 16", "size", common=True)]
    num_inference_steps: Annotated[
        int, Option("number of denoising steps; more steps are slower and add detail", "sampling", common=True, low=1)
    ]
    guidance_scale: Annotated[
        float,
        Option(
            "classifier-free guidance scale; 1 disables guidance and halves the time",
            "guidance",
            common=True,
            low=1,
            hint="1 disables guidance",
        ),
    ]
    dynamic_guidance: Annotated[
        bool, Option("vary the scale over the steps, as for the official DPM++ samples", "guidance")
    ]
    sampler: Annotated[Sampler, Option("ddim (first order) or dpm++ (DPM-Solver++ 2M, second order)", "sampling")]
    seed: Annotated[
        int,
        Option(
            "random seed; equal seeds give equal videos (default: random)",
            "sampling",
            common=True,
            low=0,
            high=2**63 - 1,
        ),
    ]
    fps: Annotated[float, Option("frames per second; `video` is resampled to this rate", "size", low=1, high=240)]
    eta: Annotated[
        float | None,
        Option(
            "scale of the noise added in each step (default: 0 for ddim, 1 for dpm++)",
            "sampling",
            low=0,
            high=1,
            hint="0 adds no noise",
        ),
    ] = None
    smooth_guidance: Annotated[
        bool, Option("increase the scale over the steps from 1 to 1 + `guidance_scale`", "guidance")
    ] = False
    guidance_interval: Annotated[
        tuple[float, float],
        Option(
            "range of the steps with guidance, as two fractions; a smaller range is faster",
            "guidance",
            ("FROM", "TO"),
        ),
    ] = (0.0, 1.0)
    null_text: Annotated[
        NullText | None,
        Option(
            "unconditional prompt embedding: of the empty prompt, as in diffusers, or zeros, as in the authors' code",
            "guidance",
        ),
    ] = None
    sequential_guidance: Annotated[
        bool, Option("run the two predictions of guidance one after the other: less memory, same video", "guidance")
    ] = False
    cache: Annotated[
        float | None,
        Option(
            "skip steps that can be extrapolated with at most this error, such as 0.02; faster, but changes the output",
            "sampling",
            low=0,
            high=1,
            hint="a relative error; a typical value is 0.02",
        ),
    ] = None
    position_rule: Annotated[
        PositionRule | None,
        Option("rotary positions at other sizes: scaled to the training size, or counted from 0", "size"),
    ] = None
    image: Annotated[
        InputSource | None, Option("image to animate (image-to-video models)", "input", common=True, argument_type=Path)
    ] = None
    video: Annotated[
        InputSource | None,
        Option("video to regenerate, continue (`extend`) or edit (`invert`)", "input", common=True, argument_type=Path),
    ] = None
    strength: Annotated[
        float | None,
        Option("fraction of the denoising steps applied to `video`, above 0 (default: 0.8)", "input", high=1),
    ] = None
    extend: Annotated[bool, Option("continue `video`; `num_frames` includes its frames", "input")] = False
    extend_by: Annotated[
        int | None, Option("continue `video` by this many frames, instead of `extend` and `num_frames`", "input", low=1)
    ] = None
    invert: Annotated[bool, Option("edit `video` by DDIM inversion, keeping layout and motion", "input")] = False
    window: Annotated[int | None, Option("generate a long video in windows of this many frames, 4k+1", "size")] = None
    overlap: Annotated[
        int | None, Option("overlap of windows in frames, a multiple of 4 (default: half a window)", "size")
    ] = None
    fit: Annotated[
        geometry.FitMode | None,
        Option(
            "how to fit `image` and `video` to the size: crop (cover, default), letterbox (contain) or stretch", "input"
        ),
    ] = None
    image_latent_scale: Annotated[
        ImageLatentScale | None,
        Option("scale of image latents in 1.5 models, as in the official code (sat) or in diffusers", "input"),
    ] = None

    @property
    def task(self) -> Task:
        """The generation task."""
        if self.video is not None:
            return "extend" if self.extend else "invert" if self.invert else "video"
        return "image" if self.image is not None else "text"

    @property
    def num_denoising_steps(self) -> int:
        """Number of denoising steps: `num_inference_steps`, times `strength` (rounded down) for video-to-video."""
        return int(self.num_inference_steps * (1.0 if self.strength is None else self.strength))

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance is on."""
        return self.guidance_scale != 1


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The model to load, the device, and how to run it: the arguments of `CogVideoX.from_pretrained`."""

    model: Annotated[
        str,
        Option("a shipped model (toybox), a model folder or a Hugging Face hub name", "model", "MODEL", common=True),
    ] = "toybox"
    device: Annotated[
        str, Option("device; auto is a GPU (CUDA, XPU or MPS) if available", "model", "auto|cpu|cuda|...")
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            "compute dtype; auto is the model's dtype on GPUs, and float32 or, if faster, bfloat16 on CPUs",
            "model",
            "auto|float32|bfloat16|...",
        ),
    ] = "auto"
    memory: Annotated[
        int | str,
        Option(
            "weight placement: fastest that fits (auto), least memory (low), on the device (speed), or a limit",
            "model",
            "auto|low|speed|12GB",
            common=True,
        ),
    ] = "auto"
    weights: Annotated[
        WeightFormat, Option("store weights in 8 bits: half the memory of bfloat16, but changes the output", "model")
    ] = "exact"
    compile: Annotated[
        bool, Option("compile the transformer's blocks: the first step is slower, later steps are faster", "model")
    ] = False
    int8_compute: Annotated[
        bool, Option("large matrix products in int8, on CPUs that support it: faster, but changes the output", "model")
    ] = False
    float8: Annotated[
        bool, Option("large matrix products in FP8, on GPUs that support it: faster, but changes the output", "model")
    ] = False
