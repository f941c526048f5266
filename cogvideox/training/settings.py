"""What a training run is told: frozen, typed, complete, and free of torch.

A recipe (`recipes.py`) returns one of these whole; the command line overrides single values (`optim.lr=3e-4`).
"""

from dataclasses import dataclass
from typing import Literal

from cogvideox.dataset.config import ToyboxClips
from cogvideox.diffusion.config import Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.text.config import T5Config
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import LossWeights, VAEConfig

CaptionStyle = Literal["short", "plain", "dense"]


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its learning rate (`optim.py`)."""

    lr: float = 1e-3  # peak
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    final_lr: float = 0.0  # what the cosine ends at, as a fraction of `lr`
    grad_clip: float = 1.0  # largest norm of the whole gradient


@dataclass(frozen=True)
class RunSettings:
    """How long, how often, how many. Intervals count optimizer steps; 0 switches the thing off.

    Raises:
        UserError: a length or a batch without anything in it, a decay outside [0, 1), a negative interval.
    """

    num_steps: int
    batch_size: int
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    ema_decay: float = 0.999
    log_interval: int = 20
    save_interval: int = 500
    validate_interval: int = 500
    sample_interval: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_interval", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name}={getattr(self, name)} is less than the smallest legal value, 1")
        for name in ("save_interval", "validate_interval", "sample_interval", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"run.{name}={getattr(self, name)} is negative; the smallest legal value is 0")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"run.ema_decay={self.ema_decay} is not in [0, 1); 0.999 is usual")


@dataclass(frozen=True)
class SamplingSettings:
    """How videos are sampled, during training and as the trained folder's defaults."""

    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    sampler: Sampler = "ddim"
    num_prompts: int = 16  # on a sample sheet


@dataclass(frozen=True)
class VAETraining:
    """A run of `vae_loop`."""

    model: VAEConfig
    clips: ToyboxClips
    validation: ToyboxClips
    optim: OptimSettings
    run: RunSettings
    loss: LossWeights
    crop_steps: int  # the first steps see square crops of the clips, which is several times faster
    crop_size: int
    crop_batch_size: int
    encoder_steps: int  # after these the latents are final and the decoder alone goes on
    image_interval: int  # every so many steps the batch is of single frames; 0 for never
    images_per_clip: int  # how many frames then stand for one clip of the batch


@dataclass(frozen=True)
class TransformerTraining:
    """A run of `transformer_loop`: a transformer and a text encoder, trained together on the latents of a trained VAE.

    Raises:
        UserError: sizes of the parts that do not fit each other.
    """

    vae: str  # a folder that holds a trained VAE in `vae/`
    transformer: TransformerConfig
    text_encoder: T5Config
    clips: ToyboxClips
    validation: ToyboxClips
    optim: OptimSettings
    run: RunSettings
    sampling: SamplingSettings
    schedule: ScheduleConfig
    caption_styles: tuple[CaptionStyle, ...] = ("short", "plain", "dense")
    text_dropout: float = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance
    timesteps: Literal["explicit_uniform", "random_uniform"] = "explicit_uniform"
    stored_as: Literal["float32", "float16", "bfloat16"] = "float32"  # the weights of the finished model
    examples: tuple[str, ...] = ()  # prompts that the finished model is shown with

    def __post_init__(self) -> None:
        if self.transformer.text_embed_dim != self.text_encoder.d_model:
            raise UserError(
                f"transformer.text_embed_dim={self.transformer.text_embed_dim} has to equal "
                f"text_encoder.d_model={self.text_encoder.d_model}"
            )
        if not 0 <= self.text_dropout <= 1:
            raise UserError(f"text_dropout={self.text_dropout} is not in [0, 1]; 0.1 is usual")
