"""What a training run is told: frozen, typed, complete, and free of torch.

A recipe (`recipes.py`) returns one of these whole; the command line overrides single values (`optim.lr=3e-4`).
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cogvideox.dataset.config import ToyboxClips
from cogvideox.diffusion.config import Sampler, ScheduleConfig
from cogvideox.errors import UserError
from cogvideox.geometry import check_size, nearest_sizes
from cogvideox.text.config import T5Config
from cogvideox.toybox.scenes.grammar import TEXT_LENGTHS
from cogvideox.transformer.config import TransformerConfig
from cogvideox.vae.config import DiscriminatorConfig, LossWeights, VAEConfig

CaptionStyle = Literal["short", "plain", "dense"]


@dataclass(frozen=True)
class OptimSettings:
    """The optimizer and its learning rate (`optim.py`).

    Raises:
        UserError: a value outside of its range; the message names it.
    """

    name: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of transformer blocks, AdamW for all the rest
    lr: float = 1e-3  # peak
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    final_lr: float = 0.0  # what the cosine ends at, as a fraction of `lr`
    grad_clip: float = 1.0  # largest norm of the whole gradient
    moments: Literal["float32", "8bit"] = "float32"  # what AdamW remembers; 8bit, a quarter, by torchao

    def __post_init__(self) -> None:
        _at_least(self, "optim.", weight_decay=0, warmup_steps=0)
        for name in ("lr", "eps", "grad_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"optim.{name}={getattr(self, name)} has to be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={self.betas} are not in [0, 1); (0.9, 0.95) are the paper's")
        if not 0 <= self.final_lr <= 1:
            raise UserError(f"optim.final_lr={self.final_lr} is not in [0, 1]: it is a fraction of optim.lr")


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
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; weights and optimizer are always float32
    deterministic: bool = False  # on a GPU, so that a run can be repeated and resumed exactly; slower
    compile: bool = False  # by torch.compile: minutes before the first step, less for each after it
    workers: int = 0  # processes that make batches ahead of time; without a GPU they would only steal from the training
    ema_decay: float = 0.999
    log_interval: int = 20
    save_interval: int = 500
    validate_interval: int = 500
    keep_checkpoints: int = 2
    max_skipped: int = 10  # steps in a row whose loss or gradient is not finite; each is skipped, one more ends the run

    def __post_init__(self) -> None:
        _at_least(self, "run.", num_steps=1, batch_size=1, log_interval=1, keep_checkpoints=1, max_skipped=0)
        _at_least(self, "run.", save_interval=0, validate_interval=0, seed=0, workers=0)
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"run.ema_decay={self.ema_decay} is not in [0, 1); 0.999 is usual")


@dataclass(frozen=True)
class ToyboxSampling:
    """How videos are sampled, during training and as the trained folder's defaults.

    Raises:
        UserError: a value below the smallest legal one.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    sampler: Sampler = "ddim"
    num_prompts: int = 16  # on a sample sheet
    interval: int = 1000  # training steps from one sheet to the next; 0 for none

    def __post_init__(self) -> None:
        _at_least(self, "sampling.", num_inference_steps=1, guidance_scale=1, num_prompts=1, interval=0)


@dataclass(frozen=True)
class VAETraining:
    """A run of `vae_loop`.

    Raises:
        UserError: a count or a loss weight below the smallest legal one; crops or clips that the VAE cannot take; what
            belongs together and is not all there.
    """

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
    data: str | None = None  # a folder of videos and images in place of the toybox; `clips` has the size all the same
    start: str | None = None  # a folder whose `vae/` the run goes on from; its latents keep their scale
    frame_rates: tuple[float, ...] = ()  # frames a second, drawn anew for each step; none: always those of `clips`
    whole_clips: bool = False  # in one piece, rather than in the chunks that `CausalVAE` cuts time into
    context_parallel: int = 1  # how many of several processes share a clip, each a stretch of its frames; 0 for all
    lpips_trunk: str | None = None  # VGG16 as torchvision saves it; with the next one, the perceptual term is LPIPS
    lpips_heads: str | None = None  # LPIPS's own weights; without the two, random features stand in
    perceptual_frames: int = 1  # of each clip, drawn anew for each step, that the perceptual term looks at; 0 for all
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    disc_optim: OptimSettings = field(
        default_factory=lambda: OptimSettings(lr=2e-4, betas=(0.5, 0.9), weight_decay=0.0, schedule="constant")
    )
    disc_start: int = 0  # the step from which on the VAE hears the discriminator, if loss.gan is above 0
    disc_lead: int = 0  # so many steps earlier it begins to learn, for at first its word is worth nothing

    def __post_init__(self) -> None:
        _at_least(self, "", crop_steps=0, crop_batch_size=1, encoder_steps=0, image_interval=0, images_per_clip=1)
        _at_least(self, "", context_parallel=0, perceptual_frames=0, disc_start=0, disc_lead=0)
        if self.context_parallel != 1 and not self.whole_clips:
            raise UserError(
                f"context_parallel={self.context_parallel} pools the norms over whole clips: it needs whole_clips=true"
            )
        _at_least(self.loss, "loss.", l1=0, l2=0, perceptual=0, kl=0, gan=0)
        self._check_terms()
        if self.loss.l1 == self.loss.l2 == 0:
            raise UserError(
                "loss.l1 and loss.l2 are both 0, and nothing else asks for a likeness: one has to be above 0"
            )
        for group, optim in (("optim", self.optim), ("disc_optim", self.disc_optim)):
            if optim.name != "adamw":
                raise UserError(
                    f"{group}.name={optim.name} is for the matrices of transformer blocks, and here are none: use adamw"
                )
        for name in ("in_channels", "out_channels"):
            if getattr(self.model, name) != 3:
                raise UserError(f"model.{name}={getattr(self.model, name)} has to be 3, the colours of a clip")
        for clips in (self.clips, self.validation):
            check_size(clips.height, clips.width, self.model.spatial_compression_ratio)
        ratio, side = self.model.spatial_compression_ratio, min(self.clips.height, self.clips.width)
        legal = [size for size in nearest_sizes(self.crop_size, ratio) if size <= side]
        if self.crop_steps > 0 and self.crop_size not in legal:
            nearest = min(legal, key=lambda size: abs(size - self.crop_size), default=side)
            raise UserError(
                f"crop_size={self.crop_size} has to be a multiple of {ratio} pixels that fits into clips; "
                f"the nearest is {nearest}"
            )
        if not all(0 < rate < math.inf for rate in self.frame_rates):
            raise UserError(f"frame_rates={self.frame_rates} have to be above 0; the paper's are 8,16")

    def _check_terms(self) -> None:
        """What the perceptual and the adversarial terms need."""
        if (self.lpips_trunk is None) != (self.lpips_heads is None):
            raise UserError("lpips_trunk and lpips_heads are the two files of LPIPS: give both or none")
        smallest = min(self.clips.height, self.clips.width, self.crop_size if self.crop_steps else self.clips.width)
        if self.lpips_trunk is not None and smallest < 16:
            raise UserError(f"LPIPS halves pictures four times: {smallest} pixels are too few, 16 are the least")
        if self.disc_lead > self.disc_start:
            raise UserError(f"disc_lead={self.disc_lead} begins before the run; the largest legal value is disc_start")
        if self.loss.gan > 0 and self.run.compile:
            raise UserError(
                "run.compile with loss.gan: how hard the terms pull at one layer cannot be asked of compiled steps; "
                "leave one out"
            )


@dataclass(frozen=True)
class ToyboxTraining:
    """A run of `transformer_loop`: a transformer, on the latents of a trained VAE and the features of a text encoder.

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
    sampling: ToyboxSampling
    schedule: ScheduleConfig
    image_interval: int = 0  # every so many steps the batch is of images, the clips' first frames; 0 for never
    images_per_clip: int = 2  # how many images then stand for one clip of the batch
    caption_styles: tuple[CaptionStyle, ...] = ("short", "plain", "dense")
    text_dropout: float = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance
    train_text_encoder: bool = False  # trained along, a small one drowns every word in the loudest, the background's
    strata: Literal["slots", "random"] = (
        "slots"  # explicit uniform sampling: an interval of the timesteps for each clip
    )
    stored_as: Literal["float32", "float16", "bfloat16"] = "float32"  # the weights of the finished model
    examples: tuple[str, ...] = ()  # prompts that the finished model is shown with

    @property
    def images(self) -> ToyboxClips:
        """The first frames of the clips: what the steps of images see."""
        return replace(self.clips, num_frames=1)

    def num_samples(self, num_steps: int) -> int:
        """Clips and images in the first steps together."""
        num_image_steps = num_steps // self.image_interval if self.image_interval else 0
        return self.run.batch_size * (num_steps + num_image_steps * (self.images_per_clip - 1))

    def __post_init__(self) -> None:
        _at_least(self, "", image_interval=0, images_per_clip=1)
        if self.transformer.text_embed_dim != self.text_encoder.d_model:
            raise UserError(
                f"transformer.text_embed_dim={self.transformer.text_embed_dim} has to equal "
                f"text_encoder.d_model={self.text_encoder.d_model}"
            )
        if not 0 <= self.text_dropout <= 1:
            raise UserError(f"text_dropout={self.text_dropout} is not in [0, 1]; 0.1 is usual")
        if self.validation.grammar != self.clips.grammar:
            raise UserError(
                f"validation.grammar={self.validation.grammar} has to be clips.grammar={self.clips.grammar}: "
                "the tokenizer knows the words of one grammar"
            )
        least = TEXT_LENGTHS[self.clips.grammar]
        if self.transformer.max_text_seq_length < least:
            raise UserError(
                f"transformer.max_text_seq_length={self.transformer.max_text_seq_length} is too short for captions of "
                f"the {self.clips.grammar} grammar; the smallest legal value is {least}"
            )
        if not self.caption_styles:
            raise UserError("caption_styles is empty; clips are captioned in one style or more")
        if self.transformer.in_channels != self.transformer.out_channels or self.transformer.ofs_embed_dim is not None:
            raise UserError(
                "the transformer takes an image or ofs, and this run trains from text alone: transformer.in_channels "
                "has to equal transformer.out_channels, and transformer.ofs_embed_dim has to be none"
            )
        if self.sampling.num_inference_steps > self.schedule.num_train_timesteps:
            raise UserError(
                f"sampling.num_inference_steps={self.sampling.num_inference_steps} is above the number of timesteps; "
                f"the largest legal value is {self.schedule.num_train_timesteps}"
            )


def due(done: int, interval: int) -> bool:
    """Whether what happens every `interval` steps happens after `done` of them."""
    return interval > 0 and done % interval == 0


def _at_least(settings: Any, group: str, **least: int) -> None:
    """Refuse values of `settings` below their smallest legal ones, which are given by name. NaN is below everything."""
    for name, bound in least.items():
        if not getattr(settings, name) >= bound:
            raise UserError(f"{group}{name}={getattr(settings, name)} is below the smallest legal value, {bound}")
