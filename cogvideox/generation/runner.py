"""One video in the making: a clip at once, a clip continued, or clip after clip.

Axes: c latent channels, t frames or latent frames, h w size in pixels or latents.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError, is_out_of_memory
from cogvideox.generation import long_video
from cogvideox.generation.latents_checkpoint import Finished
from cogvideox.generation.memory import smaller
from cogvideox.generation.progress import OnStep, Progress, preview
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.request import Request
from cogvideox.generation.sampling.conditioning import Given, encode, image_scale
from cogvideox.generation.sampling.denoise import Texts, check_finite, denoise
from cogvideox.parallel import vae_chunk_parallel
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.offload.placement import free_cached_memory
from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAEMemoryMode
from cogvideox.video.transform import to_frames, to_unit

Result = TypeVar("Result")


@dataclass(frozen=True)
class Maker:
    """What stays the same while a video is made.

    `generator` gives all its random numbers, in the order of diffusers: those of the image's posterior, of the clip's,
    of the first noise and of the sampler. `output` is "uint8" or "float" (0..1), as frames come out. `ranks` make the
    same video together, each with everything that is not said in `parallel`. `decoding` is how the VAE takes its
    chunks, and `finished` keeps latents until the video is written.
    """

    bundle: LoadedModel
    texts: Texts
    generator: torch.Generator
    device: torch.device
    dtype: torch.dtype
    output: str
    report: OnStep
    ranks: Ranks | None = None
    decoding: VAEMemoryMode = UNSLICED
    finished: Finished | None = None
    made: list[int] = field(default_factory=list)
    """Latent frames of the clips that are denoised."""

    def make(self, request: Request, inputs: Inputs) -> np.ndarray:
        """The frames [t h w 3] of a request. The inputs have the request's size."""
        if request.window is not None and self.bundle.transformer.config.takes_image:
            return self._chain(request, inputs)
        return self._continue(request, inputs) if request.extend else self._clip(request, inputs, self.report)

    def _clip(self, request: Request, inputs: Inputs, report: OnStep) -> np.ndarray:
        """Frames that are made of nothing, of a picture, or of a clip of the same length."""
        vae, picture, image = self.bundle.vae, inputs.image, None
        if picture is None and inputs.video is not None and self.bundle.transformer.config.takes_image:
            picture = inputs.video[0]
        if picture is not None:
            image = self._encode(picture[None], image_scale(vae, request.image_latent_scale))
        start = None if inputs.video is None else self._encode(inputs.video[: request.num_frames])
        latents = self._denoise(request, request.num_frames, Given(image=image, start=start), report)
        return self._decode(latents, request.num_frames, report)

    def _continue(self, request: Request, inputs: Inputs) -> np.ndarray:
        """The frames of a clip and those after it: the clip's end is encoded as the beginning of a video of which so
        much is known, and what comes of it takes the place of nothing that was given."""
        if inputs.video is None or request.overlap is None:
            raise UserError("a request to extend needs a video and an overlap: complete it with `prepare.complete`")
        before = long_video.kept(len(inputs.video), request.overlap)
        num_frames = long_video.made(len(inputs.video), request.num_frames, request.overlap)
        known = self._encode(inputs.video[-before:])
        latents = self._denoise(request, num_frames, Given(known=known), self.report)
        frames = self._decode(latents, num_frames, self.report)
        return np.concatenate([self._as_output(inputs.video), frames[before:]])[: request.num_frames]

    def _chain(self, request: Request, inputs: Inputs) -> np.ndarray:
        """Clip after clip by an image model, each from the last frame of the one before, which they share."""
        parts, last = [], inputs.image
        if request.extend and inputs.video is not None:
            parts, last = [self._as_output(inputs.video)], inputs.video[-1]
        left = request.num_frames - sum(map(len, parts))
        lengths = long_video.links(left, request.window or left, from_given=bool(parts))
        for number, length in enumerate(lengths):
            link = replace(request, num_frames=length, window=None, video=None, extend=False)
            frames = self._clip(link, Inputs(image=last), _of_link(self.report, number, len(lengths)))
            parts.append(frames[1:] if parts else frames)
            last = frames[-1] if frames.dtype == np.uint8 else (frames[-1] * 255).round().astype(np.uint8)
        return np.concatenate(parts)[: request.num_frames]

    def _encode(self, frames: np.ndarray, scale: float | None = None) -> Float[Tensor, "1 c t h w"]:
        vae = self.bundle.vae
        scale = vae.config.scaling_factor if scale is None else scale
        self.bundle.activate("vae")
        return self._in_strips(
            frames.shape[1] // vae.config.spatial_compression_ratio,
            lambda how: encode(vae, frames, self.generator, scale=scale, device=self.device, dtype=self.dtype, how=how),
        )

    def _denoise(self, request: Request, num_frames: int, given: Given, report: OnStep) -> Float[Tensor, "1 c t h w"]:
        clip, kept = len(self.made), None
        if self.finished is not None:
            kept = self.finished.get(clip, self.generator)
        if kept is not None:
            self.made.append(kept.shape[2])
            return kept.to(self.device)
        self.bundle.activate("transformer")
        latents = denoise(
            self.bundle,
            request,
            num_frames,
            self.texts,
            given,
            self.generator,
            device=self.device,
            dtype=self.dtype,
            report=report,
            ranks=self.ranks,
        )
        self.made.append(latents.shape[2])
        if self.finished is not None:
            self.finished.put(clip, latents, self.generator)
        return latents

    def _decode(self, latents: Float[Tensor, "1 c t h w"], num_frames: int, report: OnStep) -> np.ndarray:
        self.bundle.activate("vae")
        return self._in_strips(latents.shape[3], lambda how: self._decode_in(how, latents, num_frames, report))

    def _in_strips(self, rows: int, work: Callable[[VAEMemoryMode], Result]) -> Result:
        """What the VAE makes. Where memory runs out, it begins again in smaller strips, which make the same.

        Args:
            rows: of the latents.
        """
        how: VAEMemoryMode | None = self.decoding
        while how is not None:
            try:
                return work(how)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.ranks is not None:
                    raise
            # Outside of the handler, which holds what was alive.
            how = smaller(how, rows)
            free_cached_memory(self.device)
            if how is not None:
                warnings.warn(f"memory ran out in the VAE, which begins again in {how.strips} strips", stacklevel=2)
        raise UserError(
            "memory ran out in the VAE even in its smallest strips: ask for fewer frames or a smaller height and width"
        )

    def _decode_in(
        self, how: VAEMemoryMode, latents: Float[Tensor, "1 c t h w"], num_frames: int, report: OnStep
    ) -> np.ndarray:
        vae = self.bundle.vae
        ratio = vae.config.spatial_compression_ratio
        kind = np.uint8 if self.output == "uint8" else np.float32
        height, width = (side * ratio for side in latents.shape[3:])
        frames = np.empty((num_frames, height, width, 3), dtype=kind)
        done = 0
        z = (latents / vae.config.scaling_factor).to(self.dtype)
        if self.ranks is None:
            decoded = vae.decode_stream(z, strips=how.strips, offload=how.offload)
        else:
            decoded = vae_chunk_parallel.decode_stream(vae, z, self.ranks.world, strips=how.strips, offload=how.offload)
        for chunk in decoded:
            check_finite(chunk, self.dtype)
            pixels = to_frames(chunk[0]) if self.output == "uint8" else to_unit(chunk[0])
            frames[done : done + len(pixels)] = pixels.cpu().numpy()
            done += len(pixels)
            look = lambda count, side: preview(vae, latents, count, side)  # noqa: E731
            report(Progress("decode", done, num_frames, look=look))
        return frames

    def _as_output(self, frames: np.ndarray) -> np.ndarray:
        return frames if self.output == "uint8" else frames.astype(np.float32) / 255


def _of_link(report: OnStep, number: int, num_links: int) -> OnStep:
    """The progress of one of several clips as that of the whole."""

    def tell(progress: Progress) -> None:
        done = number * progress.total + progress.done
        report(replace(progress, done=done, total=num_links * progress.total))

    return tell
