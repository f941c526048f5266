"""The public face: a model that is ready, and a prompt that becomes a video.

    prompt -> T5 -> [1 n d]  -+
    noise [1 c t h w] --------+-> sampler over the transformer -> latents -> VAE, chunk by chunk -> frames [t h w 3]

Axes: b batch (the two halves of guidance), c latent channels, t latent frames, h w latent size, n text tokens, d text
width.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import geometry
from cogvideox.bundle.folder import Bundle, load
from cogvideox.bundle.layout import Description, describe
from cogvideox.bundle.settings import FolderSettings
from cogvideox.diffusion import guidance
from cogvideox.diffusion.samplers import SAMPLERS, initial_noise
from cogvideox.diffusion.timesteps import trailing
from cogvideox.errors import UserError
from cogvideox.generation.device import choose_device, choose_dtype
from cogvideox.generation.request import Replay, Request, complete, remarks, split
from cogvideox.records import Video
from cogvideox.text.tokenizer import Tokenizer
from cogvideox.transformer.position import positions_for
from cogvideox.version import __version__
from cogvideox.video.transform import to_frames, to_unit


@dataclass(frozen=True)
class Progress:
    """Where a generation stands: given to `on_step` after each denoising step, and while frames are decoded."""

    stage: Literal["denoise", "decode"]
    done: int
    total: int  # steps when denoising, frames when decoding
    video: int = 0  # which of the videos, from 0
    num_videos: int = 1


OnStep = Callable[[Progress], None]


class CogVideoX:
    """A model on its device. Make one with `from_pretrained`."""

    def __init__(self, about: Description, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        self.about = about
        self.bundle = bundle
        self.device = device
        self.dtype = dtype
        self._embeddings: dict[str, Tensor] = {}

    @property
    def settings(self) -> FolderSettings:
        """The model's own defaults and rules."""
        return self.bundle.settings

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path | Description = "toybox",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> "CogVideoX":
        """Loads a model.

        Args:
            path_or_name: a shipped model's name, or the path of a folder in the diffusers layout.
            device: "auto" takes a CUDA device where there is one, or else the CPU; or any device of torch.
            dtype: "auto", "float32", "bfloat16" or "float16". "auto" is float32 on the CPU, which has no fast
                arithmetic for the others, and elsewhere what the model was trained in.

        Raises:
            UserError: no such model, a broken or incomplete folder, a device or type that is not there.
        """
        about = path_or_name if isinstance(path_or_name, Description) else describe(path_or_name)
        place = choose_device(device)
        kind = choose_dtype(dtype, place, about.settings)
        return cls(about, load(about, device=place, dtype=kind), place, kind)

    def generate(
        self,
        prompt: str | None,
        *,
        image: Any = None,
        video: Any = None,
        strength: float = 0.8,
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        dynamic_guidance: bool | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        num_videos: int = 1,
        output: str = "uint8",
        on_step: OnStep | None = None,
    ) -> Video | list[Video]:
        """Makes a video of a prompt. None means the model's default (`settings`).

        Args:
            negative_prompt: what guidance leads away from.
            num_frames: 4k+1; exactly so many come out.
            height, width: pixels.
            guidance_scale: how closely the prompt is followed; 1 is no guidance, and takes half the time.
            dynamic_guidance: change the scale over the steps as the official DPM++ samples do.
            sampler: "ddim" (deterministic after its first noise) or "dpm++" (adds noise in each step).
            seed: the same seed gives the same video, and on the CPU the noise of diffusers with
                `torch.Generator().manual_seed(seed)`. None draws one; the video's metadata tells which.
            num_videos: more than one gives a list. Video i has seed `seed + i`, and is what that seed gives alone.
            output: frames as "uint8", or as "float" in 0..1.
            on_step: called with a `Progress`; an exception that it raises ends the generation.

        Returns:
            A `Video` with frames [t h w 3], or a list of them when `num_videos` is above 1.

        Raises:
            UserError: a value that the model cannot do; the sentence tells the rule and the nearest legal value.
        """
        if image is not None or video is not None or strength != 0.8:
            raise UserError("image, video and strength are not supported yet: this version generates from text alone")
        if output not in ("uint8", "float"):
            raise UserError(f"output={output!r} must be 'uint8' or 'float'")
        if num_videos < 1:
            raise UserError(f"num_videos={num_videos} must be 1 or more")
        request = complete(
            self.about,
            prompt,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            dynamic_guidance=dynamic_guidance,
            sampler=sampler,
            seed=seed,
        )
        for remark in remarks(request, self.about):
            warnings.warn(remark, stacklevel=2)
        videos = [
            self.run(part, output=output, on_step=_numbered(on_step, i, num_videos))
            for i, part in enumerate(split(request, num_videos))
        ]
        return videos if num_videos > 1 else videos[0]

    @torch.inference_mode()
    def run(self, request: Request, *, output: str = "uint8", on_step: OnStep | None = None) -> Video:
        """Makes the video of a complete request (`generation.request.complete`)."""
        report = on_step or (lambda progress: None)
        latents = self._denoise(request, self._texts(request), report)
        frames = self._decode(latents, request, output, report)
        return Video(frames, fps=request.fps, metadata=asdict(self.replay(request)))

    def replay(self, request: Request) -> Replay:
        """What the metadata of the request's video holds."""
        return Replay(
            **{field.name: getattr(request, field.name) for field in fields(Request)},
            model=self.about.name,
            device=self.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            cogvideox=__version__,
            torch=torch.__version__,
        )

    def _texts(self, request: Request) -> Float[Tensor, "b n d"]:
        """The embedded prompt; with guidance [2 n d], with what guidance leads away from in front."""
        prompt = self._embed(request.prompt)
        if request.guidance_scale == 1:
            return prompt
        if request.negative_prompt == "" and self.settings.null_text == "zero":
            return torch.cat([torch.zeros_like(prompt), prompt])
        return torch.cat([self._embed(request.negative_prompt), prompt])

    def _embed(self, prompt: str) -> Float[Tensor, "1 n d"]:
        """Each text is encoded once while the same few are in use: the null text, and a prompt under many seeds."""
        if prompt not in self._embeddings:
            if len(self._embeddings) >= 8:
                self._embeddings.clear()
            ids = self.bundle.tokenizer.encode([prompt], self.settings.text_length)
            self._embeddings[prompt] = self.bundle.text_encoder(ids.to(self.device)).to(self.dtype)
        return self._embeddings[prompt]

    def _denoise(self, request: Request, texts: Float[Tensor, "b n d"], report: OnStep) -> Float[Tensor, "1 c t h w"]:
        model, config, schedule = self.bundle.transformer, self.bundle.transformer.config, self.bundle.schedule
        ratio = self.about.vae.spatial_compression_ratio
        size = geometry.latent_shape(
            request.num_frames, request.height, request.width, patch_t=config.patch_size_t or 1, ratio=ratio
        )
        # The 1.5 models patch time in pairs. What is missing to a pair stands in front, and is dropped at the end.
        padding = size[0] - geometry.latent_frames(request.num_frames)

        times = trailing(request.num_inference_steps, schedule.num_train_timesteps)
        modulation = model.modulation(torch.tensor(times, device=self.device))
        positions = positions_for(
            config, *size, num_text=texts.shape[1], rule=self.settings.position_rule, device=self.device
        )
        scale = guidance.constant(request.guidance_scale)
        if request.dynamic_guidance:
            scale = guidance.dynamic(request.guidance_scale, len(times))

        def predict(x: Tensor, t: int, i: int) -> Tensor:
            batch = x.to(self.dtype).expand(len(texts), -1, -1, -1, -1)
            v = model(batch, texts, None, positions=positions, modulation=modulation[i])
            if len(v) == 1:
                return v
            uncond, cond = v.chunk(2)
            return guidance.combine(cond, uncond, scale(t))

        generator = torch.Generator().manual_seed(request.seed)
        latents = SAMPLERS[request.sampler](
            predict,
            initial_noise((1, config.in_channels, *size), generator, self.device),
            times,
            schedule,
            generator=generator,
            on_step=lambda i, total, t, x0: report(Progress("denoise", i + 1, total)),
        )
        self._check_finite(latents)
        return latents[:, :, padding:]

    def _decode(self, latents: Float[Tensor, "1 c t h w"], request: Request, output: str, report: OnStep) -> np.ndarray:
        kind = np.uint8 if output == "uint8" else np.float32
        frames = np.empty((request.num_frames, request.height, request.width, 3), dtype=kind)
        done = 0
        for chunk in self.bundle.vae.decode_stream((latents / self.about.vae.scaling_factor).to(self.dtype)):
            self._check_finite(chunk)
            pixels = to_frames(chunk[0]) if output == "uint8" else to_unit(chunk[0])
            frames[done : done + len(pixels)] = pixels.cpu().numpy()
            done += len(pixels)
            report(Progress("decode", done, request.num_frames))
        return frames

    def _check_finite(self, x: Tensor) -> None:
        """NaN would become black, or any colour, without a word."""
        if not torch.isfinite(x).all():
            raise UserError(f"the model left the range of {self.dtype}: try another dtype, float32 or bfloat16")


def check_texts(request: Request, about: Description) -> None:
    """Whether the model's text length holds the prompts, which needs no weights.

    Raises:
        UserError: one is too long; the sentence tells by how much.
    """
    tokenizer = Tokenizer.from_folder(about.path / "tokenizer")
    tokenizer.encode([request.prompt, request.negative_prompt], about.settings.text_length)


def _numbered(on_step: OnStep | None, video: int, num_videos: int) -> OnStep | None:
    if on_step is None:
        return None
    return lambda progress: on_step(replace(progress, video=video, num_videos=num_videos))
