"""Training configs: frozen dataclasses without defaults that depend on the environment.

A recipe (`recipes.py`) returns a complete config; the command line overrides single values (`optim.lr=3e-4`).
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cogvideox.dataset.config import CaptionDropout, CaptionStyle, ToyboxClips
from cogvideox.diffusion.config import Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.geometry import check_frame_count, check_size, nearest_sizes
from cogvideox.text.config import T5Config
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import DiscriminatorConfig, LossWeights, VAEConfig

TrackerName = Literal["tensorboard", "wandb", "trackio"]

HELD_OUT_SEED = 1_000_000_000
"""Scenes with this seed or a higher one are used for validation only."""


@dataclass(frozen=True)
class OptimSettings:
    """Optimizer and learning-rate schedule (`training.optim`).

    Raises:
        UserError: a value is out of range.
    """

    name: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of transformer blocks; other weights use AdamW
    lr: float = 1e-3  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.95)  # decay rates of the two moments
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 1e-4  # decoupled, as in AdamW
    warmup_steps: int = 100  # optimizer steps of linear warm-up
    schedule: Literal["constant", "cosine"] = "cosine"  # learning rate after the warm-up
    final_lr: float = 0.0  # final learning rate as a fraction of `lr`
    grad_clip: float = 1.0  # maximum norm of the whole gradient
    moments: Literal["float32", "8bit"] = "float32"  # AdamW's moments; 8bit uses a quarter of the memory, needs torchao

    def __post_init__(self) -> None:
        _check_minimum(self, "optim.", weight_decay=0, warmup_steps=0)
        for name in ("lr", "eps", "grad_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"optim.{name}={getattr(self, name)} must be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={self.betas} must be in [0, 1); the paper uses 0.9,0.95")
        if not 0 <= self.final_lr <= 1:
            raise UserError(f"optim.final_lr={self.final_lr} must be in [0, 1]: it is a fraction of optim.lr")


@dataclass(frozen=True)
class RunSettings:
    """Run length, batch size, hardware and intervals. Intervals are in optimizer steps; 0 turns the action off.

    Raises:
        UserError: a value is out of range.
    """

    num_steps: int  # optimizer steps of the whole run
    batch_size: int  # clips, or packed rows, of an optimizer step, over all processes and accumulated micro-batches
    seed: int = 0  # determines the order of the data, noise, timesteps and initial weights
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto"  # auto: a GPU if there is one
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # bfloat16: mixed precision with float32 weights
    deterministic: bool = False  # deterministic GPU kernels: bit-exact reruns and resumes, but slower
    compile: bool = False  # torch.compile: the first step takes minutes, later steps are faster
    workers: int = 0  # prefetch processes; without a GPU, they compete with training for the CPU
    ema_decay: float = 0.999  # of the averaged weights, which are validated and exported; 0: no averaging
    log_interval: int = 20  # steps between log lines
    save_interval: int = 500  # steps between checkpoints
    validate_interval: int = 500  # steps between validations
    keep_checkpoints: int = 2  # number of checkpoints that are kept
    max_skipped: int = 10  # number of consecutive non-finite steps that are skipped before the run ends
    trackers: tuple[TrackerName, ...] = ()  # experiment trackers, in addition to metrics.jsonl; extra `trackers`

    def __post_init__(self) -> None:
        _check_minimum(self, "run.", num_steps=1, batch_size=1, log_interval=1, keep_checkpoints=1, max_skipped=0)
        _check_minimum(self, "run.", save_interval=0, validate_interval=0, seed=0, workers=0)
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"run.ema_decay={self.ema_decay} must be in [0, 1), for example 0.999")


@dataclass(frozen=True)
class ToyboxSampling:
    """Sampling during training, and the default sampling settings of the exported model.

    Raises:
        UserError: a value is out of range.
    """

    num_inference_steps: int = 25  # denoising steps
    guidance_scale: float = 4.0  # classifier-free guidance; 1: none
    sampler: Sampler = "ddim"  # default sampler of the model, too
    num_prompts: int = 16  # number of samples on a sheet
    interval: int = 1000  # steps between sample sheets; 0: none

    def __post_init__(self) -> None:
        _check_minimum(self, "sampling.", num_inference_steps=1, guidance_scale=1, num_prompts=1, interval=0)


@dataclass(frozen=True)
class VAETraining:
    """Config of VAE training (`training.vae.trainer`).

    Raises:
        UserError: a value is out of range, sizes do not match the VAE, or settings conflict.
    """

    model: VAEConfig  # config of the VAE
    clips: ToyboxClips  # training clips
    validation: ToyboxClips  # held-out clips
    optim: OptimSettings  # optimizer and learning-rate schedule
    run: RunSettings  # length, batch size, hardware and intervals of the run
    loss: LossWeights  # weights of the loss terms
    crop_steps: int  # number of initial steps on square crops of clips, which are several times faster
    crop_size: int  # in pixels
    crop_batch_size: int  # clips of a step on crops
    encoder_steps: int  # number of steps after which the encoder is frozen and only the decoder is trained
    image_interval: int  # steps between batches of single frames; 0: none
    images_per_clip: int  # a batch of single frames has this many times the batch size
    data: str | None = None  # a folder of videos and images instead of toybox clips; `clips` still sets their size
    init_from: str | None = None  # a folder whose `vae/` initializes the weights; its scaling factor is kept
    frame_rates: tuple[float, ...] = ()  # fps, one of which is sampled for each step; empty: the fps of `clips`
    whole_clips: bool = False  # process whole clips instead of the chunks of `CausalVAE`
    context_parallel: int = 1  # context-parallel size: ranks over which a clip's frames are split; 0: all ranks
    lpips_trunk: str | None = None  # file of torchvision's VGG16 weights, for LPIPS
    lpips_heads: str | None = None  # file of LPIPS's linear weights; without these files, random features are used
    st_lpips: str | None = None  # file of shift-tolerant LPIPS's weights (`stlpips-pytorch`), instead of LPIPS's files
    perceptual_frames: int = 1  # random frames of each clip for the perceptual loss; 0: all
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)  # for loss.gan
    disc_optim: OptimSettings = field(
        default_factory=lambda: OptimSettings(lr=2e-4, betas=(0.5, 0.9), weight_decay=0.0, schedule="constant")
    )  # optimizer of the discriminator
    disc_start: int = 0  # step from which the GAN loss is added, if loss.gan is above 0
    disc_warmup_steps: int = 0  # steps before `disc_start` in which the discriminator is trained without a GAN loss

    def __post_init__(self) -> None:
        _check_minimum(self, "", crop_steps=0, crop_batch_size=1, encoder_steps=0, image_interval=0, images_per_clip=1)
        _check_minimum(self, "", context_parallel=0, perceptual_frames=0, disc_start=0, disc_warmup_steps=0)
        if self.context_parallel != 1 and not self.whole_clips:
            raise UserError(
                f"context_parallel={self.context_parallel} pools the norms over whole clips: set whole_clips=true"
            )
        _check_minimum(self.loss, "loss.", l1=0, l2=0, perceptual=0, kl=0, gan=0)
        self._check_perceptual_and_gan()
        if self.loss.l1 == self.loss.l2 == 0:
            raise UserError(
                "loss.l1 and loss.l2 are both 0, so there is no reconstruction loss: one of them must be above 0"
            )
        for group, optim in (("optim", self.optim), ("disc_optim", self.disc_optim)):
            if optim.name != "adamw":
                raise UserError(
                    f"{group}.name={optim.name} is for matrices of transformer blocks, and a VAE has none: use adamw"
                )
        for name in ("in_channels", "out_channels"):
            if getattr(self.model, name) != 3:
                raise UserError(f"model.{name}={getattr(self.model, name)} must be 3, the color channels")
        if self.model.is_variant and (self.whole_clips or self.context_parallel != 1):
            raise UserError(
                f"model.time_padding={self.model.time_padding} and "
                f"model.temporal_compression_ratio={self.model.temporal_compression_ratio} do not support whole_clips "
                "and context_parallel: set whole_clips=false and context_parallel=1"
            )
        for clips in (self.clips, self.validation):
            check_frame_count(clips.num_frames, frame_ratio=self.model.temporal_compression_ratio)
            check_size(clips.height, clips.width, self.model.spatial_compression_ratio)
        ratio, side = self.model.spatial_compression_ratio, min(self.clips.height, self.clips.width)
        allowed = [size for size in nearest_sizes(self.crop_size, ratio) if size <= side]
        if self.crop_steps > 0 and self.crop_size not in allowed:
            nearest = min(allowed, key=lambda size: abs(size - self.crop_size), default=side)
            raise UserError(
                f"crop_size={self.crop_size} must be a multiple of {ratio} pixels and no larger than the clips; "
                f"the nearest is {nearest}"
            )
        if not all(0 < rate < math.inf for rate in self.frame_rates):
            raise UserError(f"frame_rates={self.frame_rates} must be above 0; the paper uses 8,16")

    def _check_perceptual_and_gan(self) -> None:
        """Raise UserError unless the settings of the perceptual and GAN losses are consistent."""
        if (self.lpips_trunk is None) != (self.lpips_heads is None):
            raise UserError("LPIPS needs both lpips_trunk and lpips_heads: set both or neither")
        if self.lpips_trunk is not None and self.st_lpips is not None:
            raise UserError("the perceptual loss is LPIPS or ST-LPIPS: set lpips_trunk and lpips_heads, or st_lpips")
        smallest = min(self.clips.height, self.clips.width, self.crop_size if self.crop_steps else self.clips.width)
        if (self.lpips_trunk or self.st_lpips) is not None and smallest < 16:
            raise UserError(f"LPIPS needs frames of at least 16 pixels on each side, got {smallest}")
        if self.disc_warmup_steps > self.disc_start:
            raise UserError(f"disc_warmup_steps={self.disc_warmup_steps} must be at most disc_start={self.disc_start}")
        if self.loss.gan > 0 and self.run.compile:
            raise UserError(
                "run.compile does not support loss.gan, whose adaptive weight needs the gradients at one layer: "
                "set run.compile=false or loss.gan=0"
            )


@dataclass(frozen=True)
class ToyboxTraining(CaptionDropout):
    """Config of toybox training (`training.toybox.trainer`): a transformer on the latents of a trained VAE.

    Raises:
        UserError: a value is out of range, or the sizes of the networks do not match.
    """

    vae: str  # a folder with a trained VAE in `vae/`
    transformer: TransformerConfig  # config of the transformer
    text_encoder: T5Config  # config of the text encoder
    clips: ToyboxClips  # training clips
    validation: ToyboxClips  # held-out clips
    optim: OptimSettings  # optimizer and learning-rate schedule
    run: RunSettings  # length, batch size, hardware and intervals of the run
    sampling: ToyboxSampling  # sampling during training and defaults of the model
    schedule: ScheduleConfig  # noise schedule and prediction type
    image_interval: int = 0  # steps between batches of images (first frames of clips); 0: none
    images_per_clip: int = 2  # a batch of images has this many times the batch size
    caption_styles: tuple[CaptionStyle, ...] = ("short", "plain", "dense")  # repeated styles are more frequent
    train_text_encoder: bool = False  # a small text encoder trained with the transformer encodes the background only
    timestep_sampling: Literal["explicit_uniform", "random"] = "explicit_uniform"  # stratified, or independent
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # dtype of the exported weights
    examples: tuple[str, ...] = ()  # example prompts of the exported model

    @property
    def images(self) -> ToyboxClips:
        """First frames of `clips`, for batches of images."""
        return replace(self.clips, num_frames=1)

    def num_samples(self, num_steps: int) -> int:
        """Return the number of clips and images in the first `num_steps` steps."""
        num_image_steps = num_steps // self.image_interval if self.image_interval else 0
        return self.run.batch_size * (num_steps + num_image_steps * (self.images_per_clip - 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_minimum(self, "", image_interval=0, images_per_clip=1)
        if self.transformer.text_embed_dim != self.text_encoder.d_model:
            raise UserError(
                f"transformer.text_embed_dim={self.transformer.text_embed_dim} must equal "
                f"text_encoder.d_model={self.text_encoder.d_model}"
            )
        if self.validation.grammar != self.clips.grammar:
            raise UserError(
                f"validation.grammar={self.validation.grammar} must equal clips.grammar={self.clips.grammar}, because "
                "the tokenizer has the words of one grammar"
            )
        min_length = TEXT_LENGTHS[self.clips.grammar]
        if self.transformer.max_text_seq_length < min_length:
            raise UserError(
                f"transformer.max_text_seq_length={self.transformer.max_text_seq_length} is too short for captions of "
                f"the {self.clips.grammar} grammar; it must be at least {min_length}"
            )
        if not self.caption_styles:
            raise UserError("caption_styles is empty; it needs at least one style")
        if "free" in self.caption_styles and self.clips.grammar != "pair":
            raise UserError(
                f"the caption style free uses words that the tokenizer of the {self.clips.grammar} grammar does not "
                "have: remove it from caption_styles, or set clips.grammar=pair"
            )
        if self.transformer.in_channels != self.transformer.out_channels or self.transformer.ofs_embed_dim is not None:
            raise UserError(
                "toybox training supports text-to-video models only: transformer.in_channels must equal "
                "transformer.out_channels, and transformer.ofs_embed_dim must be none"
            )
        if self.sampling.num_inference_steps > self.schedule.num_train_timesteps:
            raise UserError(
                f"sampling.num_inference_steps={self.sampling.num_inference_steps} must be at most the number of "
                f"timesteps, {self.schedule.num_train_timesteps}"
            )


def due(done: int, interval: int) -> bool:
    """Return whether an action that is repeated every `interval` steps (0: never) is due after `done` steps."""
    return interval > 0 and done % interval == 0


def _check_minimum(settings: Any, group: str, **minima: int) -> None:
    """Raise UserError for values of `settings` below their minima, given by name, and for NaN."""
    for name, minimum in minima.items():
        if not getattr(settings, name) >= minimum:
            raise UserError(f"{group}{name}={getattr(settings, name)} must be at least {minimum}")
