"""Keywords of `CogVideoX.generate`, for editors and type checkers. Written by tools/option_keywords.py."""

from typing import Any, Literal, TypedDict


class RequestKeywords(TypedDict, total=False):
    """Fields of `Request`, each optional; None means the default."""

    negative_prompt: str | None
    """what the video should not show"""
    num_frames: int | None
    """number of frames, 4k+1 such as 9 or 49"""
    height: int | None
    """height in pixels, a multiple of 16"""
    width: int | None
    """width in pixels, a multiple of 16"""
    num_inference_steps: int | None
    """denoising steps; more are slower and finer"""
    guidance_scale: float | None
    """how closely to follow the prompt; 1 turns guidance off and halves the time"""
    dynamic_guidance: bool | None
    """vary the scale over the steps like the official DPM++ samples"""
    sampler: Literal["ddim", "dpm++"] | None
    """ddim (first order) or dpm++ (2M, second order)"""
    seed: int | None
    """the same seed gives the same video (default: random)"""
    fps: float | None
    """frames per second; `video` is read at this rate"""
    eta: float | None
    """noise added in each step (default: 0 for ddim, 1 for dpm++)"""
    smooth_guidance: bool | None
    """raise the scale over the steps from 1 to 1 + `guidance_scale`"""
    guidance_interval: tuple[float, float] | None
    """apply guidance only between these fractions of the steps: faster"""
    null_text: Literal["empty", "zero"] | None
    """unconditional prompt: the empty text, as in diffusers, or zeros, as in the authors' code"""
    sequential_guidance: bool | None
    """run the two halves of guidance one after the other: less memory, the same video"""
    cache: float | None
    """skip steps that can be extrapolated within this error, such as 0.02: faster, but the output changes"""
    position_rule: Literal["resize_crop", "slice"] | None
    """rotary positions: scaled to the size seen in training, or counted from 0"""
    image: Any
    """image to animate, with an image-to-video model"""
    video: Any
    """video to regenerate, continue (`extend`) or edit (`invert`)"""
    strength: float | None
    """fraction of `video` to regenerate, above 0 (default: 0.8)"""
    extend: bool | None
    """continue `video`; `num_frames` counts its frames too"""
    invert: bool | None
    """edit `video` by DDIM inversion, keeping layout and motion"""
    window: int | None
    """generate a long video in windows of this many frames, 4k+1"""
    overlap: int | None
    """frames that windows share, a multiple of 4 (default: half)"""
    fit: Literal["cover", "contain", "stretch"] | None
    """crop (cover, the default), letterbox or stretch `image` and `video` to another shape"""
    image_latent_scale: Literal["sat", "diffusers"] | None
    """scale of image latents in 1.5 models: official (sat) or diffusers"""
