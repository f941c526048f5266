"""Training of a text-to-video model from scratch: a transformer on the latents of a trained VAE, with a small text
encoder.

As in the paper (sections 3.1 to 3.3; appendix A): velocity prediction with zero terminal SNR, explicit uniform sampling
of timesteps, caption dropout for classifier-free guidance, EMA weights; AdamW, or Muon.

The batch of a step depends only on (settings, step), so a resumed run is bit-identical to an uninterrupted one on a
CPU, and on a GPU with `run.deterministic`.
"""

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
from cogvideox.diffusion.objective import add_noise, loss_per_sample, training_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.parallel.environment import world_size
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_vae
from cogvideox.pretrained.model_settings import ModelSettings, TrainedRange
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.pretrained.offload.transformer_cost import BatchShape
from cogvideox.progress import ProgressLines
from cogvideox.text import init_weights as text_init
from cogvideox.text.encoder import T5Encoder
from cogvideox.training.config import ToyboxTraining
from cogvideox.training.ema import EMA
from cogvideox.training.metrics import throughput, timestep_bins
from cogvideox.training.metrics.tracker import StepWork, print_above_heartbeat
from cogvideox.training.optim import optimizers
from cogvideox.training.precision import with_precision
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import TrainingRun, training_run
from cogvideox.training.toybox.data import ToyboxBatch, ToyboxData
from cogvideox.training.toybox.model import TextToVideo
from cogvideox.training.toybox.validation import validation_loss, write_samples
from cogvideox.transformer import init_weights as transformer_init
from cogvideox.transformer.model import Transformer
from cogvideox.vae.latent_scaling import scale_latents
from cogvideox.vae.model import CausalVAE


def train(
    settings: ToyboxTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Train a model in the folder `out`.

    `out` also contains `settings.yaml`, `metrics.jsonl`, `samples/` and `checkpoints/`. Encoded clips are cached in
    `latents/` next to `out`, for other runs too.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        The model folder `out/model`, or None if the run was saved and stopped early (signal, `max_seconds`).

    Raises:
        UserError: the VAE does not exist or has a different number of latent channels; the device is not available;
            `out` contains a run and `resume` is false; the disk is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    if world_size() > 1:
        raise UserError("toybox training runs in a single process: start it without torchrun")
    with training_run(settings, out, resume=resume, max_seconds=max_seconds) as run:
        vae = load_vae(settings.vae).to(run.device)
        vae.config.check_usable_by_transformers()
        if vae.config.latent_channels != settings.transformer.in_channels:
            raise UserError(
                f"transformer.in_channels={settings.transformer.in_channels} must equal the VAE's latent_channels, "
                f"which are {vae.config.latent_channels} in {settings.vae}"
            )
        schedule, data = Schedule(**asdict(settings.schedule)), ToyboxData(settings)
        model = build_model(settings).to(run.device)
        optimizer = optimizers.build_optimizer([model], settings.optim)
        ema = EMA({"model": model}, run.config.ema_decay)
        run.restore({"model": model, "optimizer": optimizer, "ema": ema}, settings.num_samples)
        clip_sets = (settings.clips, settings.validation, *((settings.images,) if settings.image_interval else ()))
        clips, held_out, *images = [_encode_clips(vae, clip_set, run) for clip_set in clip_sets]

        # Validation and sampling are not compiled. Neither is the text encoder: it rounds a logarithm to an integer,
        # and compiled code could round differently than the eager code of generation.
        step_model = model
        if run.config.compile:
            compiled = torch.compile(model.transformer, dynamic=False)
            step_model = TextToVideo(compiled, model.text_encoder)  # pyrefly: ignore[bad-argument-type]
        make_batch, scale = partial(data.make_batch, clips, images[0] if images else None), vae.config.scaling_factor
        for step, batch in run.steps(run.prefetch(make_batch)):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bfloat16"):
                losses = velocity_losses(step_model, batch, schedule, scale)
            loss = losses.mean()
            loss.backward()
            grad_norm, scalars = optimizers.clip_grad_norm(optimizer, settings.optim), {}
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                lr = optimizers.optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                sums = timestep_bins.bin_losses(losses.cpu(), batch.timestep, schedule.num_train_timesteps)
                scalars = {"loss": loss, "lr": lr, "grad_norm": grad_norm, **timestep_bins.bin_means(sums)}
            optimizer.zero_grad(set_to_none=True)
            (b, _, t, h, w), n = batch.latents.shape, batch.ids.shape[1]
            shape = BatchShape(b, t, h, w, n)
            flops = sum(throughput.step_flops(settings.transformer, [shape]))
            run.tracker.step(run.done, scalars, StepWork(b, b * shape.tokens(settings.transformer), flops))

            with run.tracker.pause():
                if run.due(run.config.validate_interval, at_end=False):
                    with ema.swapped():
                        losses = validation_loss(model, data, held_out, schedule, scale)
                        run.tracker.write_validation(run.done, losses)
                if run.due(settings.sampling.interval, at_end=False):
                    with ema.swapped():
                        accuracies = write_samples(pipeline(model, vae, data), data, run.sample_path)
                        run.tracker.write(run.done, accuracies)
                        run.tracker.write_samples(run.done, run.sample_path)
                run.save()

        with ema.swapped():
            trained, dtype = pipeline(model, vae, data).model, getattr(torch, settings.export_dtype)
            return model_folder.save(trained, run.out / "model", dtype=dtype)
    return None


def build_model(settings: ToyboxTraining) -> TextToVideo:
    """Build both networks on the CPU, where the initial weights of a seed are the same on every machine."""
    generator = torch_generator("weights", settings.run.seed)
    model = TextToVideo(Transformer(settings.transformer), T5Encoder(settings.text_encoder))
    transformer_init.init_weights(model.transformer, generator)
    text_init.init_weights(model.text_encoder, generator)
    model.text_encoder.requires_grad_(settings.train_text_encoder)
    return model


def velocity_losses(
    model: TextToVideo, batch: ToyboxBatch, schedule: Schedule, scaling_factor: float
) -> Float[Tensor, " b"]:
    """Compute the MSE of the network's output for each sample of a batch (`diffusion.objective`)."""
    latents, noise, timestep, ids = to_device(batch, next(model.parameters()).device)
    x0 = scale_latents(latents, scaling_factor)
    output = model(add_noise(x0, noise, timestep, schedule), ids, timestep)
    return loss_per_sample(output, training_target(x0, noise, timestep, schedule))


def pipeline(model: TextToVideo, vae: CausalVAE, data: ToyboxData) -> CogVideoX:
    """Wrap the networks in a generation pipeline, for samples and for export."""
    settings, spec = data.settings, model_settings(data.settings)
    device = next(model.parameters()).device
    loaded = model_folder.LoadedModel(
        transformer=model.transformer,
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=data.tokenizer,
        schedule=Schedule(**asdict(settings.schedule)),
        settings=spec,
    )
    configs = settings.transformer, vae.config, settings.text_encoder, settings.schedule
    return CogVideoX(ModelSpec("toybox", Path(), *configs, spec), loaded, device, torch.float32)


def model_settings(settings: ToyboxTraining) -> ModelSettings:
    """Return the settings of the exported model: its training sizes, and the sampling settings of this run."""
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
        position_rule=settings.transformer.position_rule,
        norm_statistics="chunk",
        dtype="bfloat16" if settings.run.precision == "bfloat16" else "float32",
        trained=TrainedRange(
            num_frames=(clips.num_frames, clips.num_frames),
            frame_step=max(clips.num_frames - 1, 1),  # a single length
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


def _encode_clips(vae: CausalVAE, clips: ToyboxClips, run: TrainingRun) -> LatentTable:
    lines = ProgressLines(print_above_heartbeat)

    def on_progress(done: int, total: int) -> None:
        lines(f"encoding {clips}", done, total)
        run.preemption.check(time_limit=done == total)

    batch_size = 16 if run.device.type == "cpu" else 128
    cache, workers = run.out.parent / "latents", run.config.workers
    return encode_toybox(vae, clips, cache, batch_size=batch_size, workers=workers, on_progress=on_progress)
