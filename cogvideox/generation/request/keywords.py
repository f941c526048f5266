"""Keywords of `CogVideoX.generate`, for editors and type checkers. Written by tools/option_keywords.py."""

from typing import Any, Literal, TypedDict


class RequestKeywords(TypedDict, total=False):
    """Fields of `Request`, each optional; None means the default."""

    negative_prompt: str | None
    """description of content to avoid"""
    num_frames: int | None
    """number of frames, 4k+1 such as 9 or 49"""
    height: int | None
    """height in pixels, a multiple of 16"""
    width: int | None
    """width in pixels, a multiple of 16"""
    num_inference_steps: int | None
    """number of denoising steps; more steps are slower and add detail"""
    guidance_scale: float | None
    """classifier-free guidance scale; 1 disables guidance and halves the time"""
    dynamic_guidance: bool | None
    """vary the scale over the steps, as for the official DPM++ samples"""
    sampler: Literal["ddim", "dpm++"] | None
    """ddim (first order) or dpm++ (DPM-Solver++ 2M, second order)"""
    seed: int | None
    """random seed; equal seeds give equal videos (default: random)"""
    fps: float | None
    """frames per second; `video` is resampled to this rate"""
    eta: float | None
    """scale of the noise added in each step (default: 0 for ddim, 1 for dpm++)"""
    smooth_guidance: bool | None
    """increase the scale over the steps from 1 to 1 + `guidance_scale`"""
    guidance_interval: tuple[float, float] | None
    """range of the steps with guidance, as two fractions; a smaller range is faster"""
    null_text: Literal["empty", "zero"] | None
    """unconditional prompt embedding: of the empty prompt, as in diffusers, or zeros, as in the authors' code"""
    sequential_guidance: bool | None
    """run the two predictions of guidance one after the other: less memory, same video"""
    cache: float | None
    """skip steps that can be extrapolated with at most this error, such as 0.02; faster, but changes the output"""
    position_rule: Literal["resize_crop", "slice"] | None
    """rotary positions at other sizes: scaled to the training size, or counted from 0"""
    image: Any
    """image to animate (image-to-video models)"""
    video: Any
    """video to regenerate, continue (`extend`) or edit (`invert`)"""
    strength: float | None
    """fraction of the denoising steps applied to `video`, above 0 (default: 0.8)"""
    extend: bool | None
    """continue `video`; `num_frames` includes its frames"""
    extend_by: int | None
    """continue `video` by this many frames, instead of `extend` and `num_frames`"""
    invert: bool | None
    """edit `video` by DDIM inversion, keeping layout and motion"""
    window: int | None
    """generate a long video in windows of this many frames, 4k+1"""
    overlap: int | None
    """overlap of windows in frames, a multiple of 4 (default: half a window)"""
    fit: Literal["cover", "contain", "stretch"] | None
    """how to fit `image` and `video` to the size: crop (cover, default), letterbox (contain) or stretch"""
    image_latent_scale: Literal["sat", "diffusers"] | None
    """scale of image latents in 1.5 models, as in the official code (sat) or in diffusers"""
