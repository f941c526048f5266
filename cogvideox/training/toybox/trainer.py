"""Text to video from scratch: a transformer on the latents of a trained VAE and the features of a small text encoder.

The paper's recipe (sections 3.1 to 3.3; appendix A): velocity prediction with zero terminal SNR, explicit uniform
sampling of the timesteps of a step, captions dropped for classifier-free guidance, an average of the weights; by AdamW
as there, or by Muon (`optim`).

A step is a function of the weights and of (settings, step): see `batches`. A stopped and resumed run therefore ends
with the same weights, to the bit, as one that was left alone.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import config
from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import LatentTable, encode_toybox
from cogvideox.dataset.prefetch import to_device
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.parallel.mesh import world_size
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_vae
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.text import weights as text_weights
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.config import ToyboxTraining
from cogvideox.training.ema import EMA
from cogvideox.training.metrics import throughput, timestep_bins
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim import optimizers
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import Run, training_run
from cogvideox.training.toybox.data import Batch, Batches
from cogvideox.training.toybox.model import TextToVideo
from cogvideox.training.toybox.validation import validation_loss, write_samples
from cogvideox.transformer import weights as transformer_weights
from cogvideox.transformer.model import Transformer
from cogvideox.vae.model import CausalVAE


def train(
    settings: ToyboxTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Trains in the folder `out` and returns the finished model's folder, `out/model`.

    `out` also gets `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`; encoded clips go to `latents/`
    beside it, where other runs find them. `resume` continues from the newest checkpoint, if there is one.
    On SIGTERM, Ctrl-C or when `max_seconds` are over, the state is saved and the answer is None.

    Raises:
        UserError: no VAE where the settings say, or one of other latents; no such device; `out` already holds a run;
            the disk refuses; more steps in a row than `run.max_skipped` are not finite.
    """
    if world_size() > 1:
        raise UserError("toybox training runs in a single process: start it without torchrun")
    with training_run(settings, out, resume=resume, max_seconds=max_seconds) as run:
        vae = load_vae(settings.vae).to(run.device)
        if vae.config.latent_channels != settings.transformer.in_channels:
            raise UserError(
                f"transformer.in_channels={settings.transformer.in_channels} has to be the VAE's latent_channels, and "
                f"{settings.vae} has {vae.config.latent_channels}"
            )
        schedule, batches = Schedule(**asdict(settings.schedule)), Batches(settings)
        model = build(settings).to(run.device)
        optimizer = optimizers.build_optimizer([model], settings.optim)
        ema = EMA({"model": model}, run.config.ema_decay)
        run.restore({"model": model, "optimizer": optimizer, "ema": ema}, settings.num_samples)
        sets = (settings.clips, settings.validation, *((settings.images,) if settings.image_interval else ()))
        clips, held_out, *images = [_encode(vae, of, run) for of in sets]

        # Only steps are compiled: they come in few shapes and many times. The text encoder is not, because it rounds a
        # logarithm to whole numbers, and a compiled one could round another way than the one that generates.
        in_steps = model
        if run.config.compile:
            compiled = torch.compile(model.transformer, dynamic=False)
            in_steps = TextToVideo(compiled, model.text_encoder)  # pyrefly: ignore[bad-argument-type]
        draw, scale = partial(batches.draw, clips, images[0] if images else None), vae.config.scaling_factor
        for step, batch in run.steps(run.prefetch(draw)):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"):
                losses = velocity_losses(in_steps, batch, schedule, scale)
            loss = losses.mean()
            loss.backward()
            grad_norm, scalars = optimizers.clip_grad_norm(optimizer, settings.optim), {}
            if run.is_finite(loss=loss, grad_norm=grad_norm):
                lr = optimizers.optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                sums = timestep_bins.bin_losses(losses.cpu(), batch.timestep, schedule.num_train_timesteps)
                scalars = {"loss": loss, "lr": lr, "grad_norm": grad_norm, **timestep_bins.bin_means(sums)}
            optimizer.zero_grad(set_to_none=True)
            (b, _, t, h, w), n = batch.latents.shape, batch.ids.shape[1]
            size = BatchShape(b, t, h, w, n)
            flops = sum(throughput.step_flops(settings.transformer, [size]))
            run.log(scalars, StepWork(b, b * size.tokens(settings.transformer), flops))

            with run.tracker.pause():
                if run.due(run.config.validate_interval, at_end=False):
                    with ema.swapped():
                        run.tracker.write(run.done, validation_loss(model, batches, held_out, schedule, scale))
                if run.due(settings.sampling.interval, at_end=False):
                    with ema.swapped():
                        accuracies = write_samples(pipeline(model, vae, batches), batches, run.sample_path)
                        run.tracker.write(run.done, accuracies)
                run.save()

        with ema.swapped():
            finished, dtype = pipeline(model, vae, batches).bundle, getattr(torch, settings.stored_as)
            return model_folder.save(finished, run.out / "model", dtype=dtype)
    return None


def build(settings: ToyboxTraining) -> TextToVideo:
    """Both networks with fresh weights, on the CPU, so that a seed means the same everywhere."""
    generator = torch_generator("weights", settings.run.seed)
    model = TextToVideo(Transformer(settings.transformer), T5Encoder(settings.text_encoder))
    transformer_weights.init_weights(model.transformer, generator)
    text_weights.init_weights(model.text_encoder, generator)
    model.text_encoder.requires_grad_(settings.train_text_encoder)
    return model


def velocity_losses(model: TextToVideo, batch: Batch, schedule: Schedule, scaling_factor: float) -> Float[Tensor, " b"]:
    """The mean squared error of the velocity of each sample of a batch (`diffusion.objective`)."""
    latents, noise, timestep, ids = to_device(batch, next(model.parameters()).device)
    x0 = latents * scaling_factor
    predicted = model(add_noise(x0, noise, timestep, schedule), ids, timestep)
    return loss_per_sample(predicted, v_target(x0, noise, timestep, schedule))


def pipeline(model: TextToVideo, vae: CausalVAE, batches: Batches) -> CogVideoX:
    """The trained networks as they generate, and as they are saved."""
    settings, spec = batches.settings, model_settings(batches.settings)
    device = next(model.parameters()).device
    loaded = model_folder.LoadedModel(
        transformer=model.transformer,
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=batches.tokenizer,
        schedule=Schedule(**asdict(settings.schedule)),
        settings=spec,
    )
    configs = settings.transformer, vae.config, settings.text_encoder, settings.schedule
    return CogVideoX(ModelSpec("toybox", Path(), *configs, spec), loaded, device, torch.float32)


def model_settings(settings: ToyboxTraining) -> ModelSettings:
    """What the finished folder says about its use: the sizes it was trained at and how it was sampled on the way."""
    clips, sampling = settings.clips, settings.sampling
    return ModelSettings(
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
        position_rule=settings.transformer.grid_rule,
        norm_statistics="chunk",
        dtype=settings.run.precision,
        trained=TrainedRange(
            num_frames=(clips.num_frames, clips.num_frames),
            frame_step=max(clips.num_frames - 1, 1),  # one length only, whatever it was
            height=(clips.height, clips.height),
            width=(clips.width, clips.width),
        ),
        examples=settings.examples,
        provenance={
            "trained_on": f"{clips.num_clips} clips of the toybox, {clips.grammar} grammar",
            "num_samples_seen": str(settings.num_samples(settings.run.num_steps)),
            "settings": config.digest(settings, "TransformerTraining"),
        },
    )


def _encode(vae: CausalVAE, clips: ToyboxClips, run: Run) -> LatentTable:
    def on_progress(done: int, total: int) -> None:
        print(f"latents: {done} of {total} clips", file=sys.stderr, flush=True)
        run.preemption.check()

    batch_size = 16 if run.device.type == "cpu" else 128
    cache, workers = run.out.parent / "latents", run.config.workers
    return encode_toybox(vae, clips, cache, batch_size=batch_size, workers=workers, on_progress=on_progress)
