"""Generate one video: a single clip, an extension of a clip, or a chain of clips.

Axes: c latent channels, t frames or latent frames, h w height and width in pixels or latents.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.dtype import check_finite
from cogvideox.errors import UserError
from cogvideox.generation import long_video
from cogvideox.generation.latents_checkpoint import LatentsCheckpoint
from cogvideox.generation.out_of_memory import none_if_out_of_memory, smaller_slicing
from cogvideox.generation.progress import GenerationProgress, OnStep, preview
from cogvideox.generation.prompt_embedding import PromptEmbeddings
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.request import Request
from cogvideox.generation.sampling.conditioning import Conditioning, encode, image_scale
from cogvideox.generation.sampling.denoise import denoise
from cogvideox.parallel import vae_chunk_parallel
from cogvideox.parallel.mesh import Ranks
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.offload.placement import free_cached_memory
from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAESlicing
from cogvideox.vae.latent_scaling import unscale_latents
from cogvideox.video.transform import to_frames, to_unit

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Generation of one video with a fixed model, prompts and settings.

    Attributes:
        generator: source of all random values, sampled in the order of diffusers: posterior of the image, posterior of
            the input video, initial noise, noise of the sampler.
        output: frame type: "uint8", or "float" for float32 in 0..1.
        report: called with the progress.
        ranks: processes that generate the video together; work that `parallel` does not split is done on every rank.
        slicing: division of a chunk in the VAE, which saves memory.
        checkpoint: saves denoised latents until the video is written.
        num_denoised: number of latent frames of each clip denoised so far.
    """

    model: LoadedModel
    prompts: PromptEmbeddings
    generator: torch.Generator
    device: torch.device
    dtype: torch.dtype
    output: str
    report: OnStep
    ranks: Ranks | None = None
    slicing: VAESlicing = UNSLICED
    checkpoint: LatentsCheckpoint | None = None
    num_denoised: list[int] = field(default_factory=list)

    def run(self, request: Request, inputs: Inputs) -> np.ndarray:
        """Generate the frames [t h w 3] of a request. The inputs must have the request's height and width."""
        if request.window is not None and self.model.transformer.config.is_image_to_video:
            return self._run_chain(request, inputs)
        return self._extend(request, inputs) if request.extend else self._run_clip(request, inputs, self.report)

    def _run_clip(self, request: Request, inputs: Inputs, report: OnStep) -> np.ndarray:
        """Generate one clip from the prompt and an optional image or video, which is at least as long as the clip."""
        image, image_latents = inputs.image, None
        if image is None and inputs.video is not None and self.model.transformer.config.is_image_to_video:
            image = inputs.video[0]
        if image is not None:
            image_latents = self._encode(image[None], image_scale(self.model.vae, request.image_latent_scale))
        start = None if inputs.video is None else self._encode(inputs.video[: request.num_frames])
        latents = self._denoise(request, request.num_frames, Conditioning(image=image_latents, start=start), report)
        return self._decode(latents, request.num_frames, report)

    def _extend(self, request: Request, inputs: Inputs) -> np.ndarray:
        """Extend a clip with a text-to-video model: its last frames are the known first frames of a new clip.

        The input frames are returned unchanged."""
        if inputs.video is None or request.overlap is None:
            raise UserError(
                "a request with extend needs a video and an overlap: create it with `builder.build_request`"
            )
        num_context = long_video.num_context_frames(len(inputs.video), request.overlap)
        num_frames = long_video.num_extension_frames(len(inputs.video), request.num_frames, request.overlap)
        known = self._encode(inputs.video[-num_context:])
        latents = self._denoise(request, num_frames, Conditioning(known=known), self.report)
        frames = self._decode(latents, num_frames, self.report)
        return np.concatenate([self._as_output(inputs.video), frames[num_context:]])[: request.num_frames]

    def _run_chain(self, request: Request, inputs: Inputs) -> np.ndarray:
        """Generate a chain of clips with an image-to-video model, each from the last frame of the previous one."""
        clips, last_frame = [], inputs.image
        if request.extend and inputs.video is not None:
            clips, last_frame = [self._as_output(inputs.video)], inputs.video[-1]
        num_new = request.num_frames - sum(map(len, clips))
        lengths = long_video.chain_lengths(num_new, request.window or num_new, continued=bool(clips))
        for index, length in enumerate(lengths):
            clip = replace(request, num_frames=length, window=None, video=None, extend=False)
            frames = self._run_clip(clip, Inputs(image=last_frame), partial(self._report_clip, index, len(lengths)))
            clips.append(frames[1:] if clips else frames)
            last_frame = frames[-1] if frames.dtype == np.uint8 else (frames[-1] * 255).round().astype(np.uint8)
        return np.concatenate(clips)[: request.num_frames]

    def _report_clip(self, index: int, num_clips: int, progress: GenerationProgress) -> None:
        """Report the progress of one of several clips as progress of the whole video."""
        done = index * progress.total + progress.done
        self.report(replace(progress, done=done, total=num_clips * progress.total))

    def _encode(self, frames: np.ndarray, scale: float | None = None) -> Float[Tensor, "1 c t h w"]:
        """Encode frames to latents multiplied by `scale` (default: the VAE's scaling factor)."""
        vae = self.model.vae
        encode_sliced = partial(
            encode,
            vae,
            frames,
            self.generator,
            scale=vae.config.scaling_factor if scale is None else scale,
            device=self.device,
            dtype=self.dtype,
        )
        self.model.activate("vae")
        return self._with_smaller_slices(encode_sliced, frames.shape[1] // vae.config.spatial_compression_ratio)

    def _denoise(
        self, request: Request, num_frames: int, conditioning: Conditioning, report: OnStep
    ) -> Float[Tensor, "1 c t h w"]:
        """Denoise the next clip, or load its latents from the checkpoint."""
        clip, latents = len(self.num_denoised), None
        if self.checkpoint is not None:
            latents = self.checkpoint.get(clip, self.generator)
        if latents is not None:
            self.num_denoised.append(latents.shape[2])
            return latents.to(self.device)
        self.model.activate("transformer")
        latents = denoise(
            self.model,
            request,
            num_frames,
            self.prompts,
            conditioning,
            self.generator,
            device=self.device,
            dtype=self.dtype,
            report=report,
            ranks=self.ranks,
        )
        self.num_denoised.append(latents.shape[2])
        if self.checkpoint is not None:
            self.checkpoint.put(clip, latents, self.generator)
        return latents

    def _decode(self, latents: Float[Tensor, "1 c t h w"], num_frames: int, report: OnStep) -> np.ndarray:
        self.model.activate("vae")
        decode_sliced = partial(self._decode_frames, latents, num_frames, report)
        return self._with_smaller_slices(decode_sliced, latents.shape[3])

    def _with_smaller_slices(self, process: Callable[..., Result], num_rows: int) -> Result:
        """Return `process(slicing=...)`; on out of memory, retry with smaller slices, which give the same result.

        Ranks do not retry, because all of them would have to agree.

        Args:
            num_rows: height of the latents, the maximum number of strips.
        """
        if self.ranks is not None:
            return process(slicing=self.slicing)
        slicing = self.slicing
        while (result := none_if_out_of_memory(partial(process, slicing=slicing))) is None:
            free_cached_memory(self.device)
            smaller = smaller_slicing(slicing, num_rows)
            if smaller is None:
                raise UserError(
                    "out of memory in the VAE even with the smallest strips: use fewer frames or a smaller height and "
                    "width"
                )
            slicing = smaller
            warnings.warn(f"out of memory in the VAE; retrying in {slicing.strips} strips", stacklevel=2)
        return result

    def _decode_frames(
        self, latents: Float[Tensor, "1 c t h w"], num_frames: int, report: OnStep, *, slicing: VAESlicing
    ) -> np.ndarray:
        vae = self.model.vae
        ratio = vae.config.spatial_compression_ratio
        height, width = (side * ratio for side in latents.shape[3:])
        frames = np.empty((num_frames, height, width, 3), dtype=np.uint8 if self.output == "uint8" else np.float32)
        z = unscale_latents(latents, vae.config.scaling_factor).to(self.dtype)
        options = {"strips": slicing.strips, "offload": slicing.offload}
        if self.ranks is None:
            chunks = vae.decode_stream(z, **options)
        else:
            chunks = vae_chunk_parallel.decode_stream(vae, z, self.ranks.world, **options)
        done = 0
        for chunk in chunks:
            check_finite(chunk, self.dtype)
            pixels = to_frames(chunk[0]) if self.output == "uint8" else to_unit(chunk[0])
            frames[done : done + len(pixels)] = pixels.cpu().numpy()
            done += len(pixels)
            report(GenerationProgress("decode", done, num_frames, render_preview=partial(preview, vae, latents)))
        return frames

    def _as_output(self, frames: np.ndarray) -> np.ndarray:
        return frames if self.output == "uint8" else frames.astype(np.float32) / 255
