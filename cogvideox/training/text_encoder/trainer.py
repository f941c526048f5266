"""Training of a small T5 text encoder by span corruption (Raffel et al. 2020), on captions of toybox scenes.

An encoder and a decoder are trained together, and only the encoder is exported. Batches depend only on (seed, step), so
a resumed run is bit-identical to an uninterrupted one on a CPU.
"""

from functools import partial
from pathlib import Path

import torch

from cogvideox.dataset.prefetch import to_device
from cogvideox.errors import UserError
from cogvideox.parallel.environment import world_size
from cogvideox.pretrained.components import save_network
from cogvideox.training.ema import EMA
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim.optimizers import build_optimizer, clip_grad_norm, optimizer_step
from cogvideox.training.precision import with_precision
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import training_run
from cogvideox.training.text_encoder.config import TextEncoderTraining
from cogvideox.training.text_encoder.data import build_tokenizer, make_batch
from cogvideox.training.text_encoder.decoder import build_model
from cogvideox.training.text_encoder.validation import validate


def train(
    settings: TextEncoderTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Train a text encoder in the folder `out`; the result is `out/text_encoder/` and `out/tokenizer/`.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        `out`, or None if the run was saved and stopped early (signal, `max_seconds`).

    Raises:
        UserError: several processes; the device is not available; the vocabulary is too small; `out` contains a run and
            `resume` is false; the disk is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    if world_size() > 1:
        raise UserError("text encoder training runs in a single process: start it without torchrun")
    with training_run(settings, out, resume=resume, max_seconds=max_seconds) as run:
        tokenizer = build_tokenizer(settings)
        generator = torch_generator("weights", settings.run.seed)
        model = build_model(settings.model, settings.num_decoder_layers, generator).to(run.device)
        optimizer = build_optimizer([model], settings.optim)
        ema = EMA({"model": model}, run.config.ema_decay)
        size, bfloat16 = run.config.batch_size, run.config.precision == "bfloat16"
        autocast = partial(torch.autocast, run.device.type, torch.bfloat16, enabled=bfloat16)
        run.restore({"model": model, "optimizer": optimizer, "ema": ema}, lambda steps: steps * size)
        for step, batch in run.steps(run.prefetch(partial(make_batch, settings, tokenizer))):
            batch = to_device(batch, run.device)
            with autocast():
                loss = model(batch.source, batch.target).mean()
            loss.backward()
            grad_norm, scalars = clip_grad_norm(optimizer, settings.optim), {}
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                with autocast():  # for the matrix products of Muon
                    lr = optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                scalars = {"loss": loss.detach(), "lr": lr, "grad_norm": grad_norm}
            optimizer.zero_grad(set_to_none=True)
            run.tracker.step(run.done, scalars, StepWork(size, size * settings.text_length))
            with run.tracker.pause():
                if run.due(run.config.validate_interval):
                    with ema.swapped():
                        run.tracker.write_validation(run.done, validate(model, tokenizer, settings))
                run.save()
        with ema.swapped():
            save_network(model.encoder.state_dict(), settings.model, run.out)
        tokenizer.save(run.out / "tokenizer")
        return run.out
    return None
