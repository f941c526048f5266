"""Generate the latents of one clip from noise, with the options of a request.

Axes: b prompts, c latent channels, t latent frames, h w latent size, n text tokens, d text width.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import geometry
from cogvideox.diffusion import guidance
from cogvideox.diffusion.objective import add_noise
from cogvideox.diffusion.samplers import SAMPLERS, ddim_invert, initial_noise
from cogvideox.diffusion.timesteps import trailing
from cogvideox.dtype import check_finite
from cogvideox.errors import UserError
from cogvideox.generation.progress import GenerationProgress, OnStep, Stage, preview
from cogvideox.generation.prompt_embedding import PromptEmbeddings
from cogvideox.generation.request.request import Request
from cogvideox.generation.sampling.conditioning import Conditioning
from cogvideox.generation.sampling.denoiser import (
    BoundTransformer,
    Denoiser,
    VelocityModel,
    predict_sequentially,
    window_weights,
)
from cogvideox.generation.sampling.inversion import attend_to_reference, predict_with_reference
from cogvideox.generation.sampling.step_cache import StepCache
from cogvideox.parallel.cfg_parallel import parallelize_cfg
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.transformer.image_conditioning import pad_image_latents
from cogvideox.transformer.temporal_padding import drop_padding, prepend_padding
from cogvideox.vae.model import CausalVAE


def denoise(
    model: LoadedModel,
    request: Request,
    num_frames: int,
    prompts: PromptEmbeddings,
    conditioning: Conditioning,
    generator: torch.Generator,
    *,
    device: torch.device,
    dtype: torch.dtype,
    report: OnStep,
    ranks: Ranks | None = None,
) -> Float[Tensor, "1 c t h w"]:
    """Generate the latents of a clip, at the transformer's scale, in float32.

    Args:
        num_frames: number of frames of this clip; a request may consist of several clips.
        dtype: the transformer's compute dtype.
        report: called with the progress after each step.
        ranks: ranks for CFG parallelism (`parallel.cfg_parallel`); each of them returns the latents.

    Raises:
        UserError: unsupported size; values out of the range of `dtype`; a step cache with `ranks`.
    """
    if request.cache is not None and ranks is not None:
        # Because of rounding, a rank could skip a step that others compute; they would wait for it forever.
        raise UserError("cache is not supported with several processes: leave it out, or run without torchrun")
    config, schedule = model.transformer.config, model.schedule
    patch_t, ratio = config.patch_size_t or 1, model.vae.config.spatial_compression_ratio
    latent_size = geometry.latent_shape(num_frames, request.height, request.width, patch_t=patch_t, ratio=ratio)
    num_padding = latent_size[0] - geometry.latent_frames(num_frames)
    # Video-to-video adds noise to the input video and runs only the last steps, a fraction `strength` of them.
    timesteps = trailing(request.num_inference_steps, schedule.num_train_timesteps)[-request.num_denoising_steps :]
    windows = _windows(request, latent_size[0], patch_t)
    scale = _guidance_scale(request, len(timesteps), schedule.num_train_timesteps)
    guided_steps = range(*(round(fraction * len(timesteps)) for fraction in request.guidance_interval))
    bind = partial(
        BoundTransformer,
        model.transformer,
        timesteps,
        schedule,
        (len(windows[0]), *latent_size[1:]),
        num_text=prompts.prompt.shape[1],
        rule=request.position_rule or model.settings.position_rule,
        device=device,
        dtype=dtype,
    )
    on_step = partial(_report_step, report, model.vae, num_padding)

    x = initial_noise((1, config.out_channels, *latent_size), generator, device)
    start = None if conditioning.start is None else prepend_padding(conditioning.start, num_padding)
    velocity_model: VelocityModel
    if start is not None and prompts.null is not None:
        unconditional = Denoiser([bind()], prompts.null)
        states = ddim_invert(unconditional, start, timesteps, schedule, on_step=partial(on_step, "invert"))
        velocity_model = partial(predict_with_reference, bind(attend=attend_to_reference), states)
    else:
        if start is not None:
            x = add_noise(start, x, torch.tensor(timesteps[:1]), schedule)
        image = conditioning.image
        velocity_model = bind(image=None if image is None else pad_image_latents(image, latent_size[0]))
    if ranks is not None:
        velocity_model = parallelize_cfg(velocity_model, ranks.data)
    if request.sequential_guidance:
        velocity_model = partial(predict_sequentially, velocity_model)

    models = [velocity_model] * len(windows)
    if request.cache is not None:
        models = [StepCache(velocity_model, timesteps, schedule, request.cache) for _ in windows]
    denoiser = Denoiser(
        models,
        prompts.prompt,
        scale=scale,
        guided_steps=guided_steps,
        windows=windows,
        weights=window_weights(windows, patch_t, device),
        known=None if conditioning.known is None else prepend_padding(conditioning.known, num_padding),
        schedule=schedule,
    )
    options = {} if request.eta is None else {"eta": request.eta}
    latents = SAMPLERS[request.sampler](
        denoiser, x, timesteps, schedule, generator=generator, on_step=partial(on_step, "denoise"), **options
    )
    check_finite(latents, dtype)
    return drop_padding(latents, num_padding)


def _report_step(
    report: OnStep, vae: CausalVAE, num_padding: int, stage: Stage, i: int, num_steps: int, t: int, x0: Tensor
) -> None:
    """Report a finished step. The arguments after `stage` are those of `diffusion.samplers.OnStep`."""
    report(
        GenerationProgress(stage, i + 1, num_steps, render_preview=partial(preview, vae, drop_padding(x0, num_padding)))
    )


def _guidance_scale(request: Request, num_steps: int, num_timesteps: int) -> guidance.Guidance:
    if request.dynamic_guidance:
        return guidance.dynamic(request.guidance_scale, num_steps)
    if request.smooth_guidance:
        return guidance.smooth(request.guidance_scale, num_timesteps)
    return guidance.constant(request.guidance_scale)


def _windows(request: Request, num_latents: int, patch_t: int) -> list[range]:
    """Return the latent frames of each window, aligned to temporal patches."""
    if request.window is None or request.overlap is None:
        return [range(num_latents)]
    length = -(-geometry.latent_frames(request.window) // patch_t)
    overlap = max(request.overlap // geometry.FRAME_RATIO // patch_t, 1)
    windows = geometry.time_windows(num_latents // patch_t, length, overlap)
    return [range(window.start * patch_t, window.stop * patch_t) for window in windows]
