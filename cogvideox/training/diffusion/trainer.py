"""A stage of training on encoded clips of any length and size, side by side in packed rows (paper sections 3.1 to 3.3).

Velocity prediction under the model's own schedule, explicit uniform sampling over all clips of an optimizer step,
images and videos mixed, captions dropped for classifier-free guidance, an average of the weights. All weights learn, or
a LoRA beside them. VAE and T5 are no part of it: they made the latents and features, and come back only for samples.

One process, or as many as `torchrun` starts: they plan the same steps and take their share of the rows, so that a step
is the same however many they are. A stopped and resumed run ends with the weights of an uninterrupted
one: exactly on a CPU, and on a GPU with `run.deterministic`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.dataset.loader import PackedLoader, StepBatches
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.parallel.fsdp import parallelize
from cogvideox.parallel.mesh import Ranks, world_size
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.data import Stores, open_stores
from cogvideox.training.diffusion.export import finish
from cogvideox.training.diffusion.loss import clip_losses
from cogvideox.training.diffusion.validation import measure, show
from cogvideox.training.ema import EMA
from cogvideox.training.metrics import throughput, timestep_bins
from cogvideox.training.metrics.tracker import Scalar, StepWork
from cogvideox.training.optim import optimizers
from cogvideox.training.optim.adamw_8bit import import_torchao_adamw
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import training_run
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer
from cogvideox.transformer.weights import add_image_channels, init_weights
from cogvideox.video.io import read_image


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
    _check_processes(settings)
    with training_run(settings, out, resume=resume, max_seconds=max_seconds, sequence=settings.sequence) as run:
        device, ranks, rule = run.device, run.ranks, settings.position_rule
        spec = read_spec(settings.model)
        model, learns = begin(settings, spec)
        if ranks is not None:
            apply_ulysses(model, ranks.sequence)
        schedule = Schedule(**asdict(spec.schedule))
        stores = open_stores(settings, spec, run, model.config.takes_image)
        bfloat16 = torch.bfloat16 if run.config.precision == "bfloat16" else None
        if bfloat16 is not None and ranks is None:
            narrow(model)
        model.to(device)
        kept = settings.checkpointing
        parallelize(model, model.blocks, ranks, checkpointing=kept, compile=run.config.compile, precision=bfloat16)
        autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bfloat16 is not None and ranks is None)

        loader = _loader(settings, stores, model, schedule, ranks)
        optimizer = optimizers.build_optimizer([learns], settings.optim)
        ema = EMA({"model": learns}, run.config.ema_decay)
        parts = {"model": learns, "optimizer": optimizer, "ema": ema, "data": loader}
        run.restore(parts, lambda _: sum(loader.state.seen.values()))
        batches = loader.steps(run.config.num_steps, workers=run.config.workers, pin_memory=device.type == "cuda")
        for index, step in run.steps(batches):
            loss, scalars = backward(model, step, schedule, device, ranks, rule, autocast)
            grad_norm = optimizers.clip_grad_norm(optimizer, settings.optim)
            if run.is_finite(loss=loss, grad_norm=grad_norm):
                lr = optimizers.optimizer_step(optimizer, index, run.config.num_steps, settings.optim)
                ema.update(index)
                scalars |= {"loss": loss, "lr": lr, "grad_norm": grad_norm}
                scalars |= {"tokens": step.num_tokens, "useful": step.packing_efficiency}
                scalars |= {f"kept/{name}": share for name, share in step.kept_shares.items() if share < 1}
            else:
                scalars = {}
            optimizer.zero_grad(set_to_none=True)
            clips = throughput.batch_shapes(step.batches)
            flops = sum(throughput.step_flops(model.config, clips, all_weights=settings.lora is None))
            run.log(scalars, StepWork(step.num_clips, step.num_tokens, flops / settings.sequence))

            held_out = stores.validation if run.due(run.config.validate_interval) else None
            shows = settings.samples.prompts and run.due(settings.samples.interval)
            with run.tracker.pause():
                if held_out is not None or shows:
                    with ema.swapped(), autocast():
                        if held_out is not None:
                            losses = measure(model, held_out, spec, schedule, run.config.seed, rule)
                            run.tracker.write(run.done, losses)
                        if shows:
                            show(model, spec, settings, run.sample_path, ranks)
                run.save()
        with ema.swapped():
            return finish(model, spec, settings, run.out, loader, ranks)
    return None


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
    network = _with_image(load_network(spec.path, config).requires_grad_(True), settings)
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
        read_image(file)  # which refuses what is no image, before any is needed
    return model


def backward(
    model: Transformer,
    step: StepBatches,
    schedule: Schedule,
    device: torch.device,
    ranks: Ranks | None = None,
    rule: GridRule | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, dict[str, Scalar]]:
    """The gradient of a step: of the mean over all its clips, on all ranks, of each clip's mean squared error.

    The forward pass runs under `autocast`, and the backward pass outside of it.

    Returns the loss, and those of the parts of the range of timesteps (`bins`).
    """
    num_data_ranks = 1 if ranks is None else ranks.data.size()
    sums = torch.zeros(timestep_bins.NUM_BINS, 2, device=device)
    for batch in step.batches:
        batch = batch.to(device)
        with autocast():
            errors = clip_losses(partial(model.forward_packed, rule=rule, ofs=model.config.ofs), batch, schedule)
        (errors.sum() * (num_data_ranks / step.num_clips)).backward()
        sums += timestep_bins.bin_losses(errors, batch.timestep, schedule.num_train_timesteps)
    if ranks is not None:
        dist.all_reduce(sums, group=ranks.data)
    return sums[:, 0].sum() / step.num_clips, {**timestep_bins.bin_means(sums)}


def _check_processes(settings: DiffusionTraining) -> None:
    """Check that the settings suit the number of processes, and that what they need is installed.

    Raises:
        UserError: they do not, or it is not.
    """
    if world_size() > 1:
        if settings.optim.name == "muon":  # it turns whole matrices, and each rank has some rows of them
            raise UserError("optim.name=muon is for one process alone: with several, use adamw and a lower optim.lr")
        if settings.optim.moments == "8bit":  # in blocks that do not end where shards do
            raise UserError(
                "optim.moments=8bit is for one process alone: several share the moments, so leave it at float32"
            )
    elif settings.sequence > 1:
        raise UserError(f"sequence={settings.sequence} needs as many processes: start them with torchrun")
    elif settings.optim.moments == "8bit":  # checked now: until there is an optimizer, clips may be encoded for hours
        import_torchao_adamw()


def _loader(
    settings: DiffusionTraining, stores: Stores, model: Transformer, schedule: Schedule, ranks: Ranks | None
) -> PackedLoader:
    return PackedLoader(
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
