"""Options of a video (`Request`) and of the model (`LoadOptions`).

Every option of `cogvideox generate` and of `CogVideoX` is declared in these dataclasses only. Imports no torch.
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
leaves them unscaled, like the official sampling code; "diffusers" divides them by the scaling factor (darker)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video to generate, with all defaults filled in by `builder.build_request`.

    Each field is a keyword of `CogVideoX.generate`, a flag of `cogvideox generate` and a key of the JSON sidecar. The
    sidecar omits fields that equal their default here.
    """

    prompt: Annotated[
        str, Option("what the video shows (default: the model's example)", "prompt", "PROMPT", True, flags=("prompt",))
    ]
    negative_prompt: Annotated[str, Option("what the video should not show", "guidance", common=True)]
    num_frames: Annotated[int, Option("number of frames, 4k+1 such as 9 or 49", "size", common=True)]
    height: Annotated[int, Option("height in pixels, a multiple of 16", "size", common=True)]
    width: Annotated[int, Option("width in pixels, a multiple of 16", "size", common=True)]
    num_inference_steps: Annotated[
        int, Option("denoising steps; more are slower and finer", "sampling", common=True, low=1)
    ]
    guidance_scale: Annotated[
        float,
        Option(
            "how closely to follow the prompt; 1 turns guidance off and halves the time",
            "guidance",
            common=True,
            low=1,
            hint="1 is no guidance",
        ),
    ]
    dynamic_guidance: Annotated[
        bool, Option("vary the scale over the steps like the official DPM++ samples", "guidance")
    ]
    sampler: Annotated[Sampler, Option("ddim (first order) or dpm++ (2M, second order)", "sampling")]
    seed: Annotated[
        int,
        Option("the same seed gives the same video (default: random)", "sampling", common=True, low=0, high=2**63 - 1),
    ]
    fps: Annotated[float, Option("frames per second; `video` is read at this rate", "size", low=1, high=240)]
    eta: Annotated[
        float | None,
        Option(
            "noise added in each step (default: 0 for ddim, 1 for dpm++)", "sampling", low=0, high=1, hint="0 is none"
        ),
    ] = None
    smooth_guidance: Annotated[
        bool, Option("raise the scale over the steps from 1 to 1 + `guidance_scale`", "guidance")
    ] = False
    guidance_interval: Annotated[
        tuple[float, float],
        Option(
            "apply guidance only between these fractions of the steps: faster",
            "guidance",
            ("FROM", "TO"),
        ),
    ] = (0.0, 1.0)
    null_text: Annotated[
        NullText | None,
        Option(
            "unconditional prompt: the empty text, as in diffusers, or zeros, as in the authors' code",
            "guidance",
        ),
    ] = None
    sequential_guidance: Annotated[
        bool, Option("run the two halves of guidance one after the other: less memory, the same video", "guidance")
    ] = False
    cache: Annotated[
        float | None,
        Option(
            "skip steps that can be extrapolated within this error, such as 0.02: faster, but the output changes",
            "sampling",
            low=0,
            high=1,
            hint="a relative error; a typical value is 0.02",
        ),
    ] = None
    position_rule: Annotated[
        PositionRule | None, Option("rotary positions: scaled to the size seen in training, or counted from 0", "size")
    ] = None
    image: Annotated[
        InputSource | None, Option("image to animate, with an image-to-video model", "input", common=True, text=Path)
    ] = None
    video: Annotated[
        InputSource | None,
        Option("video to regenerate, continue (`extend`) or edit (`invert`)", "input", common=True, text=Path),
    ] = None
    strength: Annotated[
        float | None, Option("fraction of `video` to regenerate, above 0 (default: 0.8)", "input", high=1)
    ] = None
    extend: Annotated[bool, Option("continue `video`; `num_frames` counts its frames too", "input")] = False
    invert: Annotated[bool, Option("edit `video` by DDIM inversion, keeping layout and motion", "input")] = False
    window: Annotated[int | None, Option("generate a long video in windows of this many frames, 4k+1", "size")] = None
    overlap: Annotated[int | None, Option("frames that windows share, a multiple of 4 (default: half)", "size")] = None
    fit: Annotated[
        geometry.FitMode | None,
        Option("crop (cover, the default), letterbox or stretch `image` and `video` to another shape", "input"),
    ] = None
    image_latent_scale: Annotated[
        ImageLatentScale | None, Option("scale of image latents in 1.5 models: official (sat) or diffusers", "input")
    ] = None

    @property
    def task(self) -> Task:
        """The generation task."""
        if self.video is not None:
            return "extend" if self.extend else "invert" if self.invert else "video"
        return "image" if self.image is not None else "text"

    @property
    def num_denoising_steps(self) -> int:
        """Number of denoising steps: `num_inference_steps`, or in video-to-video generation that number times
        `strength`, rounded down."""
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
    device: Annotated[str, Option("where to run; auto is CUDA if there is a GPU", "model", "auto|cpu|cuda")] = "auto"
    dtype: Annotated[
        str,
        Option(
            "compute dtype; auto is float32 on a CPU, otherwise the model's",
            "model",
            "auto|float32|bfloat16|...",
        ),
    ] = "auto"
    memory: Annotated[
        int | str,
        Option(
            "auto: the fastest placement that fits; low: the smallest; speed: all on the device; or a limit",
            "model",
            "auto|low|speed|12GB",
            common=True,
        ),
    ] = "auto"
    weights: Annotated[
        WeightFormat, Option("store weights in 8 bits: half the memory of bfloat16, but the output changes", "model")
    ] = "exact"
    compile: Annotated[
        bool, Option("compile the transformer's blocks: a slower first step, then faster ones", "model")
    ] = False
    float8: Annotated[
        bool, Option("multiply large matrices in FP8, on GPUs that support it: faster, but the output changes", "model")
    ] = False
