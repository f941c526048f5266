"""Text-, image- and video-to-video generation with a loaded model.

    prompt -> T5 -> [1 n d]  -------+
    image, video -> VAE encoder ----+-> sampler over the transformer -> latents -> VAE, chunk by chunk -> frames
    noise [1 c t h w] --------------+                                                                    [t h w 3]

`setup` chooses device, dtype and memory plan and loads the model, `request` builds and validates the request, `runner`
generates the video clip by clip, and `sampling.denoise` denoises one clip.
"""

import warnings
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Unpack

import numpy as np
import torch

from cogvideox.device import device_context, full_precision_convolutions
from cogvideox.dtype import dtype_name
from cogvideox.errors import UserError
from cogvideox.generation.latents_checkpoint import LatentsCheckpoint
from cogvideox.generation.out_of_memory import none_if_out_of_memory, suggest_setting
from cogvideox.generation.progress import Cancelled, GenerationProgress, OnStep
from cogvideox.generation.prompt_embedding import PromptEmbedder
from cogvideox.generation.request.builder import build_request, reopen_inputs, split_seeds
from cogvideox.generation.request.input_sources import AppliedLoRA, InputSource, source_of_file
from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.keywords import RequestKeywords
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.generation.request.sidecar import Sidecar
from cogvideox.generation.request.validation import training_mismatches
from cogvideox.generation.runner import Runner
from cogvideox.generation.sampling.conditioning import resize_inputs
from cogvideox.generation.setup import RESIDENT_HINT, choose_setup, load_model
from cogvideox.generation.workload import workload_of
from cogvideox.options import check_values, takes_options
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.pretrained.model_folder import LoadedModel
from cogvideox.pretrained.model_settings import ModelSettings
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.pretrained.offload.placement import PlacedModel
from cogvideox.pretrained.offload.plan import MemoryPlan
from cogvideox.records import Video
from cogvideox.transformer.acceleration.attention_backends import record_backends
from cogvideox.transformer.acceleration.float8 import is_float8
from cogvideox.transformer.acceleration.int8 import is_int8
from cogvideox.transformer.lora import inject
from cogvideox.transformer.lora.inject import LoRA
from cogvideox.transformer.lora.io import read_lora
from cogvideox.version import __version__

__all__ = ["Cancelled", "CogVideoX", "GenerationProgress", "OnStep"]


class CogVideoX:
    """A loaded model, ready to generate. Create it with `from_pretrained`.

    It is thread-safe and generates one video at a time.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: LoadedModel,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks | None = None,
    ) -> None:
        self.spec = spec
        self.model = model
        self.device = device
        self.dtype = dtype
        self.ranks = ranks
        if ranks is not None:
            apply_ulysses(model.transformer, ranks.sequence)
        # The memory plan covers one video at a time, and offloading moves weights for the video being generated.
        self._lock = RLock()
        self._embedder = PromptEmbedder(model, device, dtype)
        self._loras: dict[str, AppliedLoRA] = {}

    @property
    def settings(self) -> ModelSettings:
        """Default values and constraints of the model."""
        return self.model.settings

    @property
    def loras(self) -> dict[str, float]:
        """Strength of each loaded LoRA, by name."""
        return {name: adapter.strength for name, adapter in self._loras.items()}

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | ModelSpec = "toybox",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        memory: int | str | MemoryPlan = "auto",
        weights: str = "exact",
        compile: bool = False,
        int8_compute: bool = False,
        float8: bool = False,
        ranks: Ranks | None = None,
    ) -> "CogVideoX":
        """Load a model.

        Args:
            model: a shipped model's name, a folder in the diffusers layout, or a name on the Hugging Face hub.
            device: "auto" (CUDA, XPU or MPS if available, otherwise the CPU) or any torch device.
            dtype: "auto" (the model's dtype; on a CPU float32 or, for large models where it is faster, bfloat16),
                "float32", "bfloat16" or "float16".
            memory: placement of the weights for a video of the model's default size
                (`pretrained.offload.memory_planner`): "auto" selects the fastest placement that fits in free memory,
                "12GB" or a number of bytes is a limit, "speed" keeps all weights on the device, and "low" minimizes
                peak memory. An existing `MemoryPlan` is also accepted. The output does not depend on it.
            weights: "int8" or "fp8" to store weight matrices in 8 bits, which changes the output.
            compile: compile the transformer's blocks with `torch.compile`. The first step at each size takes a few
                seconds longer; later steps are faster.
            int8_compute: compute the blocks' large matrix products in int8, on CPUs that support it: faster, but
                changes the output.
            float8: compute the blocks' large matrix products in FP8, on GPUs with FP8 support: faster, but changes the
                output.
            ranks: processes that generate each video together (`parallel.mesh.init_ranks`). Every rank must make the
                same calls with the same arguments, including seeds; each returns the video. The device is the rank's.

        Raises:
            UserError: unknown model; incomplete or damaged folder; device or dtype not available; no placement fits in
                memory; `compile`, `float8` or `int8_compute` not supported here; attention heads not divisible among
                the `ranks`.
        """
        spec = model if isinstance(model, ModelSpec) else read_spec(model)
        plan = memory if isinstance(memory, MemoryPlan) else None
        values = {
            "model": spec.name,
            "device": str(device),
            "dtype": str(dtype),
            "memory": memory if plan is None else None,
            "weights": weights,
            "compile": compile,
            "int8_compute": int8_compute,
            "float8": float8,
        }
        options = LoadOptions(**check_values(LoadOptions, values))
        setup = choose_setup(spec, options, plan=plan, ranks=ranks)
        return cls(spec, load_model(spec, setup), setup.device, setup.dtype, ranks)

    @takes_options(Request, except_for=("prompt",))
    def generate(
        self,
        prompt: str | None,
        *,
        num_videos: int = 1,
        output: str = "uint8",
        on_step: OnStep | None = None,
        **options: Unpack[RequestKeywords],
    ) -> Video | list[Video]:
        """Generate a video from a prompt, optionally conditioned on an image or a video.

        Args:
            prompt: description of the video; None uses the model's example prompt.
            num_videos: number of videos. Video i has seed `seed + i` and equals a single video with that seed.
            output: "uint8" for uint8 frames, "float" for float32 frames in 0..1.
            on_step: called with a `GenerationProgress` after each step. An exception in it stops the generation. If it
                raises `Cancelled`, the exception contains the finished videos.
            options: the other fields of `Request`, listed below. None means the default, which is the model's
                (`settings`) unless stated otherwise. `image` is a path, an array [h w 3] or a PIL image; `video` is a
                path, a `Video` or an array [t h w 3], see `generation.request.inputs.read_inputs`.

        Returns:
            A `Video` with frames [t h w 3], or a list of `Video`s if `num_videos` is above 1.

        Raises:
            TypeError: unknown option.
            UserError: unsupported value (the message names the nearest supported one); out of memory.
        """
        if output not in ("uint8", "float"):
            raise UserError(f"output={output!r} must be 'uint8' or 'float'")
        request, inputs = build_request(self.spec, prompt, **options)
        requests = split_seeds(request, num_videos)
        for warning in training_mismatches(request, self.spec):
            warnings.warn(warning, stacklevel=2)
        videos: list[Video] = []
        try:
            for i, video_request in enumerate(requests):
                on_video_step = _with_video_index(on_step, i, num_videos)
                videos.append(self.run(video_request, inputs=inputs, output=output, on_step=on_video_step))
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
        latents_file: Path | None = None,
    ) -> Video:
        """Generate the video of a complete request (`generation.request.builder`).

        Args:
            inputs: the request's image and video, if they have already been read.
            latents_file: file for the denoised latents, in case decoding or saving fails. If it already contains the
                latents of this request, denoising is skipped. The caller deletes the file.

        Raises:
            UserError: out of memory (the message suggests a setting); an input has changed or cannot be read.
        """
        inputs = resize_inputs(reopen_inputs(request) if inputs is None else inputs, request)
        with (
            self._lock,
            device_context(self.device),
            full_precision_convolutions(self.dtype),
            record_backends() as backends,
        ):
            metadata = self.sidecar(request).metadata()

            def generate_frames() -> np.ndarray:
                runner = Runner(
                    model=self.model,
                    prompts=self._embedder.embed_request(request),
                    generator=torch.Generator().manual_seed(request.seed),
                    device=self.device,
                    dtype=self.dtype,
                    output=output,
                    report=on_step or (lambda progress: None),
                    ranks=self.ranks,
                    slicing=self.model.vae_slicing(workload_of(request, self.spec)),
                    checkpoint=None if latents_file is None else LatentsCheckpoint(latents_file, metadata),
                )
                return runner.run(request, inputs)

            if isinstance(self.model, PlacedModel):
                frames = none_if_out_of_memory(generate_frames)
                if frames is None:
                    raise UserError(f"out of memory: {suggest_setting(self.model.plan, request)}")
            else:
                frames = generate_frames()
        if backends and backends != {"default"}:
            metadata["attention"] = ", ".join(sorted(backends))
        return Video(frames, fps=request.fps, metadata=metadata)

    def sidecar(self, request: Request) -> Sidecar:
        """Return everything needed to reproduce the request's video with this model."""
        return Sidecar(
            **{field.name: getattr(request, field.name) for field in fields(Request)},
            model=self.spec.name,
            device=self.device.type,
            dtype=dtype_name(self.dtype),
            cogvideox=__version__,
            torch=torch.__version__,
            loras=tuple(self._loras.values()),
            weights=self.model.plan.weight_format if isinstance(self.model, PlacedModel) else "exact",
            float8=is_float8(self.model.transformer),
            int8_compute=is_int8(self.model.transformer),
        )

    def load_lora(
        self,
        file: str | Path | LoRA,
        strength: float = 1.0,
        *,
        name: str | None = None,
        merge: bool = False,
    ) -> str:
        """Apply a LoRA to the transformer, in addition to those already loaded, until `unload_lora` is called.

        Args:
            file: a LoRA file in any supported format (`transformer.lora.io`), its folder, or a `LoRA`.
            strength: scale of the LoRA; 1 is as trained, 0 has no effect.
            name: name of the LoRA in `loras` and `unload_lora`; defaults to the file's name.
            merge: merge the LoRA into the weights. Steps are then as fast as without a LoRA, but a copy of the original
                weights is kept in main memory until the LoRA is unloaded.

        Returns:
            The name of the LoRA.

        Raises:
            UserError: not a LoRA for this model; the name is already in use; `merge` with offloaded weights.
        """
        if merge and isinstance(self.model, PlacedModel) and not self.model.plan.transformer_is_resident:
            raise UserError(
                f"merge needs unquantized weights that stay on the device: leave it out, or {RESIDENT_HINT}"
            )
        lora = file if isinstance(file, LoRA) else read_lora(Path(file).expanduser())
        source = InputSource(None, "") if lora.path is None else source_of_file(lora.path)
        with self._lock:
            if name is None:
                stem = lora.path.stem if lora.path is not None else "lora"
                name = next(n for i in count() if (n := f"{stem}-{i + 1}" if i else stem) not in self._loras)
            inject.add_lora(self.model.transformer, lora, name, strength=float(strength), merge=merge)
            self._loras[name] = AppliedLoRA(source, float(strength), merge)
        if not lora.alpha_known:
            warnings.warn(
                f"{lora.path or name} does not store its alpha, so alpha = rank is assumed; if it was trained with "
                "a different alpha, as with the official trainer, use a strength of alpha / rank",
                stacklevel=2,
            )
        return name

    def unload_lora(self, name: str | None = None) -> None:
        """Remove one LoRA, or all LoRAs if `name` is None. The original weights are bit-exactly restored.

        Raises:
            UserError: no LoRA has that name.
        """
        with self._lock:
            inject.remove_lora(self.model.transformer, name)
            self._loras = {} if name is None else {n: adapter for n, adapter in self._loras.items() if n != name}


def _with_video_index(on_step: OnStep | None, video: int, num_videos: int) -> OnStep | None:
    """Wrap `on_step` so that its `GenerationProgress` has the index of the current video."""
    if on_step is None:
        return None
    return lambda progress: on_step(replace(progress, video=video, num_videos=num_videos))
