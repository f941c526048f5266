"""From noise to the latents of one clip: everything that a request says about the denoising, put together.

Axes: b batch (the two halves of guidance), c latent channels, t latent frames, h w latent size, n text tokens, d text
width.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import geometry
from cogvideox.diffusion import guidance
from cogvideox.diffusion.objective import add_noise
from cogvideox.diffusion.samplers import SAMPLERS, ddim_invert, initial_noise
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation.progress import OnStep, Progress, Stage, preview
from cogvideox.generation.request.request import Request
from cogvideox.generation.sampling.conditioning import Given
from cogvideox.generation.sampling.denoisers import guided, holding, in_turn, network, over_windows
from cogvideox.generation.sampling.inversion import attend_to_reference, beside_reference
from cogvideox.generation.sampling.step_cache import Cached
from cogvideox.parallel.cfg_parallel import parallelize_cfg
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.transformer.image_conditioning import pad_image_latents, repeat_first_frame


@dataclass(frozen=True)
class Texts:
    """Embedded texts: `prompt` is [1 n d], or with guidance [2 n d] with what it leads away from in front; `null` is
    what stands for no prompt, [1 n d], and is there only where a clip is inverted."""

    prompt: Float[Tensor, "b n d"]
    null: Float[Tensor, "1 n d"] | None = None


def denoise(
    bundle: LoadedModel,
    request: Request,
    num_frames: int,
    texts: Texts,
    given: Given,
    generator: torch.Generator,
    *,
    device: torch.device,
    dtype: torch.dtype,
    report: OnStep,
    ranks: Ranks | None = None,
) -> Float[Tensor, "1 c t h w"]:
    """The latents of `num_frames` frames, at the transformer's scale, in float32.

    Args:
        num_frames: instead of the request's, of which this may be a part.
        dtype: what the transformer computes in.
        ranks: who share the halves of guidance; all of them get the latents.

    Raises:
        UserError: a size that the model cannot do, numbers beyond the range of `dtype`, or a cache over ranks.
    """
    if request.cache is not None and ranks is not None:
        # Each would decide by its own rounding, and one could wait for another that has skipped the step.
        raise UserError("cache is for one process: leave it out, or make the video without torchrun")
    model, config, schedule = bundle.transformer, bundle.transformer.config, bundle.schedule
    patch_t, ratio = config.patch_size_t or 1, bundle.vae.config.spatial_compression_ratio
    size = geometry.latent_shape(num_frames, request.height, request.width, patch_t=patch_t, ratio=ratio)
    # The 1.5 models patch time in pairs. What is missing to a pair stands in front, and is dropped at the end.
    padding = size[0] - geometry.latent_frames(num_frames)
    times = trailing(request.num_inference_steps, schedule.num_train_timesteps)[-request.num_steps :]
    windows = _windows(request, size[0], patch_t)

    bound = partial(
        network,
        model,
        times,
        (len(windows[0]), *size[1:]),
        num_text=texts.prompt.shape[1],
        rule=request.position_rule or bundle.settings.position_rule,
        device=device,
        dtype=dtype,
    )

    def tell(stage: Stage, i: int, total: int, t: int, x0: Tensor) -> None:
        look = partial(preview, bundle.vae, x0[:, :, padding:])
        report(Progress(stage, i + 1, total, look=look))

    x = initial_noise((1, config.out_channels, *size), generator, device)
    start = None if given.start is None else repeat_first_frame(given.start, padding)
    if start is not None and texts.null is not None:
        along = guided(bound(), texts.null, guidance.constant(1.0), len(times))
        states = ddim_invert(along, start, times, schedule, on_step=partial(tell, "invert"))
        net = beside_reference(bound(attend=attend_to_reference), states)
    else:
        if start is not None:
            x = add_noise(start, x, torch.tensor(times[:1]), schedule)
        net = bound(image=None if given.image is None else pad_image_latents(given.image, size[0]))

    net = net if ranks is None else parallelize_cfg(net, ranks.data)
    net = in_turn(net) if request.sequential_guidance else net
    scale = _scale(request, len(times), schedule.num_train_timesteps)
    predicts = [
        guided(
            net if request.cache is None else Cached(net, times, schedule, request.cache),
            texts.prompt,
            scale,
            len(times),
            interval=request.guidance_interval,
        )
        for _ in windows
    ]
    predict = over_windows(predicts, windows, patch_t, device)
    if given.known is not None:
        predict = holding(predict, repeat_first_frame(given.known, padding), schedule)

    options = {} if request.eta is None else {"eta": request.eta}
    on_step = partial(tell, "denoise")
    latents = SAMPLERS[request.sampler](predict, x, times, schedule, generator=generator, on_step=on_step, **options)
    check_finite(latents, dtype)
    return latents[:, :, padding:]


def check_finite(x: Tensor, dtype: torch.dtype) -> None:
    """NaN would become black, or any colour, without a word.

    Raises:
        UserError: numbers beyond the range of `dtype`.
    """
    if not torch.isfinite(x).all():
        wider = "another dtype, float32 or bfloat16, or " if dtype == torch.float16 else ""
        raise UserError(f"the model left the range of {dtype}: try {wider}a smaller guidance_scale")


def _scale(request: Request, num_steps: int, num_timesteps: int) -> guidance.Guidance:
    if request.dynamic_guidance:
        return guidance.dynamic(request.guidance_scale, num_steps)
    if request.smooth_guidance:
        return guidance.smooth(request.guidance_scale, num_timesteps)
    return guidance.constant(request.guidance_scale)


def _windows(request: Request, num_latents: int, patch_t: int) -> list[range]:
    """The windows of time in latent frames, of whole patches."""
    if request.window is None or request.overlap is None:
        return [range(num_latents)]
    window = -(-geometry.latent_frames(request.window) // patch_t)
    overlap = max(request.overlap // geometry.FRAME_RATIO // patch_t, 1)
    pieces = geometry.time_windows(num_latents // patch_t, window, overlap)
    return [range(piece.start * patch_t, piece.stop * patch_t) for piece in pieces]
