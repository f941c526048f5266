"""Text to video from scratch: a transformer and its text encoder, together, on the latents of a trained VAE.

The paper's recipe (sections 3.1 to 3.3; appendix A): velocity prediction with zero terminal SNR, explicit uniform
sampling of the timesteps of a step, captions dropped for classifier-free guidance, AdamW, an average of the weights.

A step is a function of the weights and of (settings, step): see `draws`. A stopped and resumed run therefore ends with
the same weights, to the bit, as one that was left alone.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox import config
from cogvideox.bundle import folder
from cogvideox.bundle.settings import FolderSettings, TrainedRange
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.encode import LatentTable, encode, scene
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.diffusion.timesteps import TIMESTEP_SAMPLING
from cogvideox.text import encoder as text_encoder
from cogvideox.text.tokenizer import train_toy_tokenizer
from cogvideox.toybox.caption import ALL_WORDS, caption
from cogvideox.training import validate
from cogvideox.training.checkpoint import open_run
from cogvideox.training.draws import clip_indices, numpy_generator, torch_generator
from cogvideox.training.ema import EMA
from cogvideox.training.interrupt import Interruption, Stopped
from cogvideox.training.joint import TextToVideo
from cogvideox.training.optim import adamw, update
from cogvideox.training.settings import TransformerTraining
from cogvideox.training.track import Tracker
from cogvideox.training.vae_files import load_vae
from cogvideox.transformer import weights as transformer_weights
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE


def train(
    settings: TransformerTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Trains in the folder `out` and returns the finished model's folder, `out/model`.

    `out` also gets `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`; encoded clips go to `latents/`
    beside it, where other runs find them. `resume` continues from the newest checkpoint, if there is one.
    On SIGTERM, Ctrl-C or when `max_seconds` are over, the state is saved and the answer is None.

    Raises:
        UserError: no VAE where the settings say; `out` already holds a run; the disk refuses; the loss is not finite.
    """
    out, run = Path(out), settings.run
    with Interruption(max_seconds) as interruption:
        checkpoints = open_run(out, settings, resume=resume, keep=run.keep_checkpoints)
        device = torch.device(run.device if run.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        vae = load_vae(settings.vae).to(device)
        data = Data(settings, vae.config.scaling_factor, device)
        model = build(settings, device)
        optimizer = adamw([model], settings.optim)
        ema = EMA({"model": model}, run.ema_decay)
        parts = {"model": model, "optimizer": optimizer, "ema": ema}
        start = checkpoints.load(parts)[0] if checkpoints.latest() is not None else 0
        tracker = Tracker(
            out, num_steps=run.num_steps, num_samples=run.batch_size, start=start, interval=run.log_interval
        )
        try:
            with tracker.pause():
                table = _encode(vae, settings.clips, out, tracker, interruption)
                held_out = _encode(vae, settings.validation, out, tracker, interruption)
        except Stopped as reason:
            tracker.note(f"stopped before the first step: {reason}")
            return None

        for step in range(start, run.num_steps):
            loss = data.loss(model, table, step)
            loss.backward()
            lr, grad_norm = update(optimizer, step, run.num_steps, settings.optim)
            ema.update(step)
            done = step + 1
            tracker.step(done, {"loss": loss, "lr": lr, "grad_norm": grad_norm})

            with tracker.pause():
                if _due(done, run.validate_interval):
                    with ema.swapped():
                        tracker.write(done, data.validate(model, held_out))
                if _due(done, run.sample_interval):
                    with ema.swapped():
                        data.write_samples(model, vae, out / "samples" / f"step-{done:08d}.png")
                stop = interruption.reason() if done < run.num_steps else None
                if stop or _due(done, run.save_interval) or done == run.num_steps:
                    checkpoints.save(done, parts)
            if stop:
                tracker.note(f"stopped after step {done} of {run.num_steps}: {stop}")
                tracker.close()
                return None

        tracker.close()
        with ema.swapped():
            return folder.save(
                folder.Bundle(
                    transformer=model.transformer,
                    vae=vae,
                    text_encoder=model.text_encoder,
                    tokenizer=data.tokenizer,
                    schedule=data.schedule,
                    settings=folder_settings(settings),
                ),
                out / "model",
                dtype=getattr(torch, settings.stored_as),
            )


def build(settings: TransformerTraining, device: torch.device) -> TextToVideo:
    """Both networks with fresh weights, drawn on the CPU so that a seed means the same everywhere."""
    generator = torch_generator("weights", settings.run.seed)
    model = TextToVideo(Transformer(settings.transformer), text_encoder.T5Encoder(settings.text_encoder))
    transformer_weights.init_weights(model.transformer, generator)
    text_encoder.init_weights(model.text_encoder, generator)
    return model.to(device)


@dataclass(frozen=True)
class Batch:
    """What one step learns from: scaled latents, noise, timesteps and prompt ids."""

    x0: Float[Tensor, "b c t h w"]
    noise: Float[Tensor, "b c t h w"]
    timestep: Int[Tensor, "b"]
    ids: Int[Tensor, "b n"]


class Data:
    """Makes batches, prompts and validations from the settings; holds no state that changes."""

    def __init__(self, settings: TransformerTraining, scaling_factor: float, device: torch.device) -> None:
        self.settings, self.scaling_factor, self.device = settings, scaling_factor, device
        self.tokenizer = train_toy_tokenizer(ALL_WORDS, settings.text_encoder.vocab_size)
        self.schedule = Schedule(snr_shift_scale=settings.snr_shift_scale)
        self.draw_timesteps = TIMESTEP_SAMPLING[settings.timesteps]

    def batch(self, table: LatentTable, step: int) -> Batch:
        """The batch of step `step`: clips in order, a fresh posterior sample, caption, noise and timestep for each."""
        run = self.settings.run
        indices = clip_indices(run.seed, step, run.batch_size, len(table))
        latents = table.posterior(indices).sample(torch_generator("posterior", run.seed, step))
        noise = torch.randn(latents.shape, generator=torch_generator("noise", run.seed, step))
        timesteps = self.draw_timesteps(run.seed, step, run.batch_size, self.schedule.num_train_timesteps)
        return Batch(
            x0=latents.to(self.device) * self.scaling_factor,
            noise=noise.to(self.device),
            timestep=timesteps.to(self.device),
            ids=self.encode_prompts(self.captions(indices, step)),
        )

    def loss(self, model: TextToVideo, table: LatentTable, step: int) -> Float[Tensor, ""]:
        """The mean squared error of the velocity on the batch of step `step`."""
        batch = self.batch(table, step)
        noisy = add_noise(batch.x0, batch.noise, batch.timestep, self.schedule)
        target = v_target(batch.x0, batch.noise, batch.timestep, self.schedule)
        return loss_per_sample(model(noisy, batch.ids, batch.timestep), target).mean()

    def captions(self, indices: list[int], step: int) -> list[str]:
        """A caption for each clip in a style and wording drawn anew, or the empty prompt for a share of them."""
        rng = numpy_generator("caption", self.settings.run.seed, step)
        styles, captions = self.settings.caption_styles, []
        for index in indices:
            style, seed, fate = styles[rng.integers(len(styles))], int(rng.integers(2**31)), rng.random()
            dropped = fate < self.settings.text_dropout
            captions.append("" if dropped else caption(scene(self.settings.clips, index), style, seed=seed))
        return captions

    def encode_prompts(self, prompts: list[str]) -> Int[Tensor, "b n"]:
        return self.tokenizer.encode(prompts, self.settings.transformer.max_text_seq_length).to(self.device)

    def held_out_prompts(self, number: int) -> list[str]:
        """One caption for each of the first clips that are held out."""
        return [caption(scene(self.settings.validation, index), "plain", seed=index) for index in range(number)]

    def validate(self, model: TextToVideo, table: LatentTable) -> dict[str, float]:
        """The loss on the clips that are held out: see `validate.velocity_loss`."""
        latents = table.posterior(range(len(table))).mean.to(self.device) * self.scaling_factor
        ids = self.encode_prompts(self.held_out_prompts(len(table)))
        return validate.velocity_loss(model, latents, ids, self.schedule, seed=self.settings.run.seed)

    def write_samples(self, model: TextToVideo, vae: CausalVAE, path: Path) -> None:
        """A sheet of videos for prompts that are held out."""
        settings, clips = self.settings, self.settings.clips
        prompts = self.held_out_prompts(min(settings.sampling.num_prompts, settings.validation.num_clips))
        ratio = vae.config.spatial_compression_ratio
        shape = (
            settings.transformer.out_channels,
            (clips.num_frames - 1) // vae.config.temporal_compression_ratio + 1,
            clips.height // ratio,
            clips.width // ratio,
        )
        ids, null = self.encode_prompts(prompts), self.encode_prompts([""])[0]
        videos = validate.sample(model, vae, ids, null, shape, self.schedule, settings.sampling, seed=settings.run.seed)
        validate.write_sheet(path, videos, prompts)


def folder_settings(settings: TransformerTraining) -> FolderSettings:
    """What the finished folder says about its use: the sizes it was trained at and how it was sampled on the way."""
    clips, sampling = settings.clips, settings.sampling
    return FolderSettings(
        fps=clips.fps,
        height=clips.height,
        width=clips.width,
        num_frames=clips.num_frames,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        dynamic_guidance=False,
        sampler=sampling.sampler,
        null_text="empty",
        text_length=settings.transformer.max_text_seq_length,
        position_rule="resize_crop" if settings.transformer.use_rotary_positional_embeddings else None,
        norm_statistics="chunk",
        dtype="float32",
        trained=TrainedRange(
            num_frames=(clips.num_frames, clips.num_frames),
            frame_step=8,
            height=(clips.height, clips.height),
            width=(clips.width, clips.width),
        ),
        examples=settings.examples,
        provenance={
            "trained_on": f"{clips.num_clips} clips of the toybox, {clips.grammar} grammar",
            "num_samples_seen": str(settings.run.num_steps * settings.run.batch_size),
            "settings": config.digest(settings),
        },
    )


def _encode(vae: CausalVAE, clips: ToyboxClips, out: Path, tracker: Tracker, interruption: Interruption) -> LatentTable:
    def on_progress(done: int, total: int) -> None:
        tracker.note(f"latents: {done} of {total} clips")
        interruption.check()

    return encode(vae, clips, out.parent / "latents", on_progress=on_progress)


def _due(done: int, interval: int) -> bool:
    return interval > 0 and done % interval == 0
