"""A stage of training on encoded clips of any length and size, side by side in packed rows (paper sections 3.1 to 3.3).

Velocity prediction under the model's own schedule, explicit uniform sampling over all clips of an optimizer step,
images and videos mixed, captions dropped for classifier-free guidance, an average of the weights. All weights learn, or
a LoRA beside them. VAE and T5 are no part of it: they made the latents and features, and come back only for samples.

One process, or as many as `torchrun` starts: they plan the same steps and take their share of the rows, so that a step
is the same however many they are. A stopped and resumed run ends, to the bit, with the weights of one left alone.
"""

import sys
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.dataset.loader import Loader, Step
from cogvideox.device import choose_device
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.parallel.fsdp import parallelize
from cogvideox.parallel.mesh import Ranks, init_ranks, world_size
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.pretrained.model_folder import open_component
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.training.checkpoint import open_run
from cogvideox.training.config import due
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.data import Stores, open_stores
from cogvideox.training.diffusion.export import finish
from cogvideox.training.diffusion.loss import clip_losses
from cogvideox.training.diffusion.validation import measure, show
from cogvideox.training.ema import EMA
from cogvideox.training.fault_tolerance.nonfinite_guard import Guard
from cogvideox.training.fault_tolerance.preemption import Interruption, Stopped
from cogvideox.training.metrics import throughput, timestep_bins
from cogvideox.training.metrics.tracker import Scalar, Tracker, Work
from cogvideox.training.optim import optimizers
from cogvideox.training.optim.adamw_8bit import torchao_adamw
from cogvideox.training.rng import torch_generator
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.weights import add_image_channels, init_weights
from cogvideox.video.io import read_picture


def train(
    settings: DiffusionTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Trains in the folder `out` and returns what it made: the model folder `out/model`, or the file of the LoRA.

    `out` also gets `settings.yaml`, `metrics.jsonl`, `samples/`, `checkpoints/` and, of data that were not encoded yet,
    `stores/`. `resume` continues from the newest checkpoint, if there is one. On SIGTERM, Ctrl-C or when `max_seconds`
    are over, the state is saved and the answer is None.

    Raises:
        UserError: no data, or such as the model cannot take; a model that does not fit; `out` already holds a run; the
            disk refuses; more steps in a row than `run.max_skipped` are not finite.
    """
    out, run = Path(out), settings.run
    with Interruption(max_seconds) as interruption, _processes(settings) as ranks:
        device = choose_device(run.device) if ranks is None else ranks.device
        spec = read_spec(settings.model)
        model, learns = begin(settings, spec)
        if ranks is not None:
            apply_ulysses(model, ranks.sequence)
        schedule = Schedule(**asdict(spec.schedule))
        try:
            stores = open_stores(settings, spec, out, device, ranks, interruption, model.config.takes_image)
        except Stopped as reason:
            if ranks is None or ranks.rank == 0:
                print(f"stopped before the first step: {reason}", file=sys.stderr, flush=True)
            return None
        bfloat16 = torch.bfloat16 if run.precision == "bfloat16" else None
        if bfloat16 is not None and ranks is None:
            narrow(model)
        model.to(device)
        kept = settings.checkpointing
        parallelize(model, model.blocks, ranks, checkpointing=kept, compile=run.compile, precision=bfloat16)
        autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bfloat16 is not None and ranks is None)

        loader = _loader(settings, stores, model, schedule, ranks)
        optimizer = optimizers.optimizer([learns], settings.optim)
        ema = EMA({"model": learns}, run.ema_decay)
        parts = {"model": learns, "optimizer": optimizer, "ema": ema, "data": loader}
        checkpoints, begun = open_run(out, settings, parts, resume=resume, keep=run.keep_checkpoints, ranks=ranks)
        silent = ranks is not None and ranks.rank > 0
        tracker = Tracker(
            out,
            num_steps=run.num_steps,
            start=begun,
            samples=sum(loader.state.seen.values()),
            interval=run.log_interval,
            peak=throughput.peak(device),
            silent=silent,
        )
        guard = Guard(tracker, checkpoints, run.max_skipped)
        rule = settings.position_rule
        steps = loader.steps(run.num_steps, workers=run.workers, pin=device.type == "cuda")
        interruption.restart()
        with closing(steps):
            for step in steps:
                done = step.after.step
                with autocast():
                    loss, scalars = backward(model, step, schedule, device, ranks, rule)
                grad_norm = optimizers.clip(optimizer, settings.optim)
                if guard.passes(done, loss=loss, grad_norm=grad_norm):
                    lr = optimizers.move(optimizer, done - 1, run.num_steps, settings.optim)
                    ema.update(done - 1)
                    scalars |= {
                        "loss": loss,
                        "lr": lr,
                        "grad_norm": grad_norm,
                        "tokens": step.num_tokens,
                        "useful": step.useful,
                    }
                    scalars |= {f"kept/{name}": share for name, share in step.kept.items() if share < 1}
                else:
                    scalars = {}
                optimizer.zero_grad(set_to_none=True)
                clips = throughput.clips_of(step.batches)
                flops = sum(throughput.step_flops(model.config, clips, all_weights=settings.lora is None))
                tracker.step(done, scalars, Work(step.num_clips, step.num_tokens, flops / settings.sequence))

                finished = done == run.num_steps
                held_out = stores.validation if finished or due(done, run.validate_interval) else None
                shows = settings.samples.prompts and (finished or due(done, settings.samples.interval))
                if held_out is not None or shows:
                    with tracker.pause(), ema.swapped(), autocast():
                        if held_out is not None:
                            tracker.write(done, measure(model, held_out, spec, schedule, run.seed, rule))
                        if shows:
                            show(model, spec, settings, out / f"samples/step-{done:08d}.png", ranks)
                with tracker.pause():
                    stop = None if finished else _reason(interruption, ranks)
                    if stop or finished or due(done, run.save_interval):
                        checkpoints.save(done, parts)
                if stop:
                    tracker.note(f"stopped after step {done} of {run.num_steps}: {stop}")
                    tracker.close()
                    return None
                if run.compile and done == begun + 1:
                    interruption.restart()  # no later step takes as long as the one that compiles
        tracker.close()
        with ema.swapped():
            return finish(model, spec, settings, out, loader, ranks)


def begin(settings: DiffusionTraining, spec: ModelSpec) -> tuple[Transformer, nn.Module]:
    """The transformer in float32 on the CPU, and the part of it that learns: all, or the factors of a LoRA.

    Raises:
        UserError: it takes another text than the model's encoder gives, or other latents than its VAE's; it has no
            image to begin its samples with; the weights do not fit.
    """
    config = settings.transformer or spec.transformer
    for name in ("text_embed_dim", "max_text_seq_length", "out_channels"):
        if getattr(config, name) != getattr(spec.transformer, name):
            theirs = getattr(spec.transformer, name)
            raise UserError(f"transformer.{name}={getattr(config, name)} does not fit {settings.model}: it is {theirs}")
    generator = torch_generator("weights", settings.run.seed)
    if settings.transformer is not None:
        model = Transformer(config)
        init_weights(model, generator)
        model = _with_image(model, settings)
        return model.train(), model
    network, (state, file) = build_network(config), open_component(spec, "transformer")
    assert isinstance(network, Transformer)
    load_strict(network, state, where=str(file), rules=diffusers_keymap(config), dtype=torch.float32)
    network = _with_image(network, settings)
    if settings.lora is None:
        return network.train(), network
    network.requires_grad_(False)
    chosen = settings.lora
    factors = inject.create_lora(network, generator, rank=chosen.rank, alpha=chosen.alpha, targets=chosen.targets)
    inject.add_lora(network, factors, trainable=True)
    return network.train(), inject.lora_parameters(network)


def narrow(model: Transformer) -> None:
    """The matrices that do not learn, in bfloat16: under autocast they are multiplied in it, so that nothing changes
    but the memory of the model beside a LoRA, which is halved."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.bfloat16()


def _with_image(model: Transformer, settings: DiffusionTraining) -> Transformer:
    """The model, widened where it is to take an image and does not.

    Raises:
        UserError: as `begin`.
    """
    if settings.add_image and not model.config.takes_image:
        model = add_image_channels(model)
    wanted = settings.samples
    if model.config.takes_image and len(wanted.images) != len(wanted.prompts):
        raise UserError(
            f"the model begins with an image, and samples.images names {len(wanted.images)} for {len(wanted.prompts)} "
            "prompts: give one for each, or no prompts"
        )
    if wanted.images and not model.config.takes_image:
        raise UserError("samples.images is for a model that begins with an image: leave it out, or set add_image=true")
    for file in wanted.images:
        if not Path(file).is_file():
            raise UserError(f"samples.images names {file}, and there is no such file")
        read_picture(file)  # which refuses what is no image, before any is needed
    return model


def backward(
    model: Transformer,
    step: Step,
    schedule: Schedule,
    device: torch.device,
    ranks: Ranks | None = None,
    rule: GridRule | None = None,
) -> tuple[Tensor, dict[str, Scalar]]:
    """The gradient of a step: of the mean over all its clips, on all ranks, of each clip's mean squared error.

    Returns the loss, and those of the parts of the range of timesteps (`bins`).
    """
    num_data_ranks = 1 if ranks is None else ranks.data.size()
    sums = torch.zeros(timestep_bins.NUM_BINS, 2, device=device)
    for batch in step.batches:
        batch = batch.to(device)
        errors = clip_losses(partial(model.packed, rule=rule, ofs=model.config.ofs), batch, schedule)
        (errors.sum() * (num_data_ranks / step.num_clips)).backward()
        sums += timestep_bins.sums(errors, batch.timestep, schedule.num_train_timesteps)
    if ranks is not None:
        dist.all_reduce(sums, group=ranks.data)
    return sums[:, 0].sum() / step.num_clips, {**timestep_bins.means(sums)}


def _processes(settings: DiffusionTraining) -> AbstractContextManager[Ranks | None]:
    """The ranks that `torchrun` started; None where this process is alone.

    Raises:
        UserError: the settings do not go with so many, or need what is not installed.
    """
    if world_size() > 1:
        if settings.optim.name == "muon":  # it turns whole matrices, and each rank has some rows of them
            raise UserError("optim.name=muon is for one process alone: with several, use adamw and a lower optim.lr")
        if settings.optim.moments == "8bit":  # in blocks that do not end where shards do
            raise UserError(
                "optim.moments=8bit is for one process alone: several share the moments, so leave it at float32"
            )
        return init_ranks(sequence=settings.sequence, device=settings.run.device)
    if settings.sequence > 1:
        raise UserError(f"sequence={settings.sequence} needs as many processes: start them with torchrun")
    if settings.optim.moments == "8bit":  # told now: until there is an optimizer, clips may be encoded for hours
        torchao_adamw()
    return nullcontext()


def _loader(
    settings: DiffusionTraining, stores: Stores, model: Transformer, schedule: Schedule, ranks: Ranks | None
) -> Loader:
    return Loader(
        stores.data,
        settings.mixture(),
        model.config,
        seed=settings.run.seed,
        scaling_factor=stores.scaling_factor,
        image_scaling_factor=stores.image_scaling_factor,
        null_text=stores.null_text,
        num_timesteps=schedule.num_train_timesteps,
        rank=0 if ranks is None else ranks.data.rank(),
        num_ranks=1 if ranks is None else ranks.data.size(),
    )


def _reason(interruption: Interruption, ranks: Ranks | None) -> str | None:
    """Why to stop, if one rank has a reason: then all have it."""
    own = interruption.reason()
    if ranks is None:
        return own
    return next((reason for reason in ranks.all_gather_objects(own) if reason is not None), None)
