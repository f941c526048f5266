"""The public face: a model that is ready, and a prompt, with or without a picture or clip, that becomes a video.

    prompt -> T5 -> [1 n d]  -------+
    picture, clip -> VAE encoder ---+-> sampler over the transformer -> latents -> VAE, chunk by chunk -> frames
    noise [1 c t h w] --------------+                                                                    [t h w 3]

The room's other files: `request` is what is asked, `prepare` how it becomes that, `make` what is done about it,
`denoise` the diffusion of one clip.

Axes: b batch (the two halves of guidance), n text tokens, d text width.
"""

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.device import choose_device, choose_dtype, full_precision_convolutions, on
from cogvideox.errors import UserError, is_out_of_memory
from cogvideox.generation.latents_checkpoint import Finished
from cogvideox.generation.memory import demand_of, next_setting, plan_for
from cogvideox.generation.progress import Cancelled, OnStep, Progress
from cogvideox.generation.request.builder import prepare, reopen, split
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.provenance import Adapter, Source, source_of_file
from cogvideox.generation.request.request import Replay, Request
from cogvideox.generation.request.validation import remarks
from cogvideox.generation.runner import Maker
from cogvideox.generation.sampling.acceleration import TO_STAY, make_faster
from cogvideox.generation.sampling.acceleration import check as check_speed
from cogvideox.generation.sampling.conditioning import in_size
from cogvideox.generation.sampling.denoise import Texts
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import ModelSettings
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.pretrained.offload.placement import PlacedModel
from cogvideox.pretrained.offload.placement import place_model as put_in_place
from cogvideox.pretrained.offload.planner import MemoryPlan
from cogvideox.records import Video
from cogvideox.transformer.float8 import is_float8
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.inject import LoRA
from cogvideox.transformer.lora.io import read_lora
from cogvideox.version import __version__

__all__ = ["Cancelled", "CogVideoX", "OnStep", "Progress"]


class CogVideoX:
    """A model on its device. Make one with `from_pretrained`. Threads that share one wait for each other."""

    def __init__(
        self,
        spec: ModelSpec,
        bundle: LoadedModel,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks | None = None,
    ) -> None:
        self.spec = spec
        self.bundle = bundle
        self.device = device
        self.dtype = dtype
        self.ranks = ranks
        if ranks is not None:
            apply_ulysses(bundle.transformer, ranks.sequence)
        # Memory is planned for one video at a time, and weights that come and go are where that one needs them.
        self._alone = RLock()
        self._embeddings: dict[str, Tensor] = {}
        self._loras: dict[str, Adapter] = {}

    @property
    def settings(self) -> ModelSettings:
        """The model's own defaults and rules."""
        return self.bundle.settings

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path | ModelSpec = "toybox",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        memory: int | str | MemoryPlan = "auto",
        weights: str = "exact",
        compile: bool = False,
        float8: bool = False,
        ranks: Ranks | None = None,
    ) -> "CogVideoX":
        """Loads a model.

        Args:
            path_or_name: a shipped model's name, or the path of a folder in the diffusers layout.
            device: "auto" takes a CUDA device where there is one, or else the CPU; or any device of torch.
            dtype: "auto", "float32", "bfloat16" or "float16". "auto" is float32 on the CPU, which has no fast
                arithmetic for the others, and elsewhere what the model was trained in.
            memory: where the weights lie, so that a video of the model's own size fits (`pretrained.offload.planner`):
                "auto" is the fastest way in what is free, "12GB" or a number of bytes in no more than that, "speed"
                everything on the device, "low" as little as possible; or a plan that was made before. The video is the
                same.
            weights: "int8" and "fp8" store the matrices in one byte a number, which changes the video.
            compile: let `torch.compile` write the transformer's blocks anew: some seconds at the first step of each
                size, and less for every step.
            float8: multiply the blocks' large matrices in 8 bits, on GPUs that can: faster, and another video.
            ranks: processes that make each video together (`parallel.mesh.init_ranks`). Each calls whatever is called
                here, with the same values, a seed among them, and gets the video; `device` is then that of the rank.

        Raises:
            UserError: no such model, a broken or incomplete folder, a device or type that is not there; not enough
                memory for any plan; what `compile` and `float8` take is not there; heads that `ranks` cannot share.
        """
        spec = path_or_name if isinstance(path_or_name, ModelSpec) else read_spec(path_or_name)
        place = choose_device(device) if ranks is None else ranks.device
        kind = choose_dtype(dtype, place, spec.settings.dtype)
        plan = memory if isinstance(memory, MemoryPlan) else plan_for(spec, place, kind, memory=memory, weights=weights)
        check_speed(place, plan, compile=compile, float8=float8)
        bundle = None
        try:
            bundle = put_in_place(spec, plan, place, kind)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if bundle is None:  # raised outside the handler: the traceback there keeps tensors alive
            raise UserError(f"memory ran out while the model was loaded: {next_setting(plan)}")
        make_faster(bundle.transformer, compile=compile, float8=float8)
        return cls(spec, bundle, place, kind, ranks)

    def generate(
        self,
        prompt: str | None,
        *,
        image: Any = None,
        video: Any = None,
        strength: float | None = None,
        extend: bool = False,
        invert: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        fit: str | None = None,
        image_latent_scale: str | None = None,
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        dynamic_guidance: bool | None = None,
        smooth_guidance: bool = False,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        sequential_guidance: bool = False,
        sampler: str | None = None,
        eta: float | None = None,
        cache: float | None = None,
        position_rule: str | None = None,
        seed: int | None = None,
        num_videos: int = 1,
        output: str = "uint8",
        on_step: OnStep | None = None,
    ) -> Video | list[Video]:
        """Makes a video of a prompt, and of a picture or a clip where one is given. None means the model's default
        (`settings`).

        Args:
            image: what an image-to-video model animates: a path, an array [h w 3] or a PIL image.
            video: a clip to make anew, to continue or to invert: a path, a `Video` or an array [t h w 3]. A path or a
                `Video` is read at `fps` frames a second, from its beginning.
            strength: how much of `video` is made anew, from almost nothing to 1 (0.8 unless given): that share of the
                steps is run.
            extend: continue `video`; the result begins with its frames, and `num_frames` counts them.
            invert: edit `video` by DDIM inversion, see `generation.sampling.inversion`.
            window: make a long video in windows of so many frames (4k+1). Those of a text model share `overlap` frames
                (a multiple of 4; half a window unless given) and are denoised together; an image model goes on from
                the last frame of the window before.
            fit: how `image` and `video` fill another size: "cover" (cut; the default), "contain" (with
                black bars) or "stretch".
            image_latent_scale: "sat" (the default) or "diffusers", see `generation.request.request.ImageLatentScale`.
            negative_prompt: what guidance leads away from.
            num_frames: 4k+1; exactly so many come out.
            height, width: pixels.
            fps: frames a second of the result.
            guidance_scale: how closely the prompt is followed; 1 is no guidance, and takes half the time.
            dynamic_guidance: change the scale over the steps as the official DPM++ samples do.
            smooth_guidance: let the scale rise from 1 to 1 + guidance_scale.
            guidance_interval: guidance only between these two fractions of the steps; half the time in the others.
            sequential_guidance: the halves of guidance one after the other: the same video in less memory.
            sampler: "ddim" or "dpm++" (2M).
            eta: how much noise each step adds, 0 to 1; None is 0 for "ddim" and 1 for "dpm++".
            cache: do not compute steps that are easily foretold (`generation.sampling.step_cache`): the error that this
                may add, as a share of the latents, such as 0.02; another video, faster. None computes all steps.
            position_rule: how rotary positions follow the size, "resize_crop" or "slice".
            seed: the same seed gives the same video, and on the CPU the noise of diffusers with
                `torch.Generator().manual_seed(seed)`. None draws one; the video's metadata tells which.
            num_videos: more than one gives a list. Video i has seed `seed + i`, and is what that seed gives alone.
            output: frames as "uint8", or as "float" in 0..1.
            on_step: called with a `Progress`; an exception that it raises ends the generation, and if that is
                `Cancelled`, it holds the videos that were done.

        Returns:
            A `Video` with frames [t h w 3], or a list of them when `num_videos` is above 1.

        Raises:
            UserError: a value that the model cannot do; the sentence tells the rule and the nearest legal value.
        """
        if output not in ("uint8", "float"):
            raise UserError(f"output={output!r} must be 'uint8' or 'float'")
        if num_videos < 1:
            raise UserError(f"num_videos={num_videos} must be 1 or more")
        request, inputs = prepare(
            self.spec,
            prompt,
            image=image,
            video=video,
            strength=strength,
            extend=extend,
            invert=invert,
            window=window,
            overlap=overlap,
            fit=fit,
            image_latent_scale=image_latent_scale,
            negative_prompt=negative_prompt,
            num_frames=num_frames,
            height=height,
            width=width,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            dynamic_guidance=dynamic_guidance,
            smooth_guidance=smooth_guidance,
            guidance_interval=guidance_interval,
            sequential_guidance=sequential_guidance,
            sampler=sampler,
            eta=eta,
            cache=cache,
            position_rule=position_rule,
            seed=seed,
        )
        for remark in remarks(request, self.spec):
            warnings.warn(remark, stacklevel=2)
        videos: list[Video] = []
        try:
            for i, part in enumerate(split(request, num_videos)):
                report = _numbered(on_step, i, num_videos)
                videos.append(self.run(part, inputs=inputs, output=output, on_step=report))
        except Cancelled as cancelled:
            cancelled.videos = videos
            raise
        return videos if num_videos > 1 else videos[0]

    @torch.inference_mode()
    def run(
        self,
        request: Request,
        *,
        inputs: Inputs | None = None,
        output: str = "uint8",
        on_step: OnStep | None = None,
        finished: Path | None = None,
    ) -> Video:
        """Makes the video of a complete request (`generation.request.builder.prepare`).

        Args:
            inputs: what the request's `image` and `video` are; read again when not given.
            finished: a file for the denoised latents, in case that something fails after them. If it holds those of
                this very request, they are not denoised again. The caller removes it.

        Raises:
            UserError: memory ran out; the sentence has the setting to try next.
        """
        inputs = in_size(reopen(request) if inputs is None else inputs, request)
        frames, refusal = None, ""
        with self._alone, on(self.device), full_precision_convolutions(self.dtype):
            metadata = self.replay(request).metadata()
            try:
                maker = Maker(
                    self.bundle,
                    self._texts(request),
                    torch.Generator().manual_seed(request.seed),
                    self.device,
                    self.dtype,
                    output,
                    on_step or (lambda progress: None),
                    self.ranks,
                    self.bundle.vae_mode(demand_of(request, self.spec)),
                    None if finished is None else Finished(finished, metadata),
                )
                frames = maker.make(request, inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not isinstance(self.bundle, PlacedModel):
                    raise
                refusal = f"memory ran out: {next_setting(self.bundle.plan, request)}"
            if frames is None:  # raised outside the handler: the traceback there keeps tensors alive
                raise UserError(refusal)
        return Video(frames, fps=request.fps, metadata=metadata)

    def replay(self, request: Request) -> Replay:
        """What the metadata of the request's video holds."""
        return Replay(
            **{field.name: getattr(request, field.name) for field in fields(Request)},
            model=self.spec.name,
            device=self.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            cogvideox=__version__,
            torch=torch.__version__,
            loras=tuple(self._loras.values()),
            weights=self.bundle.plan.weight_format if isinstance(self.bundle, PlacedModel) else "exact",
            float8=is_float8(self.bundle.transformer),
        )

    @property
    def loras(self) -> dict[str, float]:
        """The strength of each LoRA on the transformer, by its name."""
        return {name: adapter.strength for name, adapter in self._loras.items()}

    def load_lora(
        self,
        file: str | Path | LoRA,
        strength: float = 1.0,
        *,
        name: str | None = None,
        merge: bool = False,
    ) -> str:
        """Lays a LoRA over the transformer, beside those that are there, until `unload_lora`.

        Args:
            file: of any trainer (`transformer.lora.io`), or the folder that it wrote, or what was read from one.
            strength: how much of it; 1 is what was trained, 0 nothing.
            name: what it is called here; made of the file's name unless given.
            merge: add it to the weights: no time in use, but a copy of them in main memory until it is unloaded.

        Returns:
            Its name.

        Raises:
            UserError: no LoRA for this model, with what it seems to be or what does not fit; a name that is taken.
        """
        if merge and isinstance(self.bundle, PlacedModel) and not self.bundle.plan.weights_stay_exact:
            raise UserError(f"a LoRA is merged only into weights that stay as they are: leave merge out, or {TO_STAY}")
        one = file if isinstance(file, LoRA) else read_lora(Path(file).expanduser())
        source = Source(None, "") if one.path is None else source_of_file(one.path)
        with self._alone:
            if name is None:
                stem = one.path.stem if one.path is not None else "lora"
                name = next(n for i in count() if (n := f"{stem}-{i + 1}" if i else stem) not in self._loras)
            inject.add_lora(self.bundle.transformer, one, name, strength=float(strength), merge=merge)
            self._loras[name] = Adapter(source, float(strength), merge)
        if not one.alpha_known:
            warnings.warn(
                f"{one.path or name} does not tell its alpha, so alpha = rank is assumed; if it was trained with "
                "another, as by the official trainer, give a strength of alpha / rank",
                stacklevel=2,
            )
        return name

    def unload_lora(self, name: str | None = None) -> None:
        """Takes off one LoRA, or all; the weights are then what they were, to the bit.

        Raises:
            UserError: there is none of that name.
        """
        with self._alone:
            inject.remove_lora(self.bundle.transformer, name)
            self._loras = {} if name is None else {one: its for one, its in self._loras.items() if one != name}

    def _texts(self, request: Request) -> Texts:
        prompt = self._embed(request.prompt)
        null = self._null(prompt) if request.invert else None
        if request.guidance_scale == 1:
            return Texts(prompt, null)
        negative = self._embed(request.negative_prompt) if request.negative_prompt else self._null(prompt)
        return Texts(torch.cat([negative, prompt]), null)

    def _null(self, like: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 n d"]:
        """What stands for no prompt."""
        return torch.zeros_like(like) if self.settings.null_text == "zero" else self._embed("")

    def _embed(self, prompt: str) -> Float[Tensor, "1 n d"]:
        """Each text is encoded once while the same few are in use: the null text, and a prompt under many seeds."""
        if prompt not in self._embeddings:
            if len(self._embeddings) >= 8:
                self._embeddings.clear()
            self.bundle.activate("text_encoder")
            ids = self.bundle.tokenizer.encode([prompt], self.settings.text_length)
            self._embeddings[prompt] = self.bundle.text_encoder(ids.to(self.device)).to(self.dtype)
        return self._embeddings[prompt]


def _numbered(on_step: OnStep | None, video: int, num_videos: int) -> OnStep | None:
    if on_step is None:
        return None
    return lambda progress: on_step(replace(progress, video=video, num_videos=num_videos))
