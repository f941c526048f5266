"""Training of the transformer on encoded clips of mixed length and size in packed rows (paper sections 3.1 to 3.3).

Velocity prediction under the model's noise schedule, explicit uniform timestep sampling over all clips of an optimizer
step, mixed images and videos, caption dropout for classifier-free guidance, EMA weights. Trains either all weights or a
LoRA. The VAE and the text encoder are loaded only to encode clips and to generate samples.

Training runs in one process or in several started by `torchrun`. Every rank plans the same step and trains on its own
rows, so a step does not depend on the number of ranks. A resumed run is bit-identical to an uninterrupted one on a CPU,
and on a GPU with `run.deterministic`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.dataset.packed_loader import PackedLoader, StepBatches
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.parallel.environment import world_size
from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import parallelize
from cogvideox.parallel.ulysses import apply_ulysses
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import ModelSpec, read_spec
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.diffusion.export import export
from cogvideox.training.diffusion.latent_stores import TrainingStores, open_stores
from cogvideox.training.diffusion.loss import clip_losses
from cogvideox.training.diffusion.quantized_base import quantize_base
from cogvideox.training.diffusion.validation import validation_loss, write_samples
from cogvideox.training.ema import EMA
from cogvideox.training.metrics import throughput, timestep_bins
from cogvideox.training.metrics.tracker import Scalar, StepWork
from cogvideox.training.optim import optimizers
from cogvideox.training.optim.adamw_8bit import import_torchao_adamw
from cogvideox.training.precision import with_precision
from cogvideox.training.rng import torch_generator
from cogvideox.training.run import training_run
from cogvideox.transformer.config import PositionRule
from cogvideox.transformer.init_weights import add_image_channels, init_weights
from cogvideox.transformer.lora import inject
from cogvideox.transformer.model import Transformer


def train(
    settings: DiffusionTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Train a transformer or a LoRA in the folder `out`.

    `out` also contains `settings.yaml`, `metrics.jsonl`, `samples/`, `checkpoints/` and, for folders of clips, their
    latents in `stores/`.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        The model folder `out/model` or the LoRA file; None if the run was saved and stopped early (signal,
        `max_seconds`).

    Raises:
        UserError: no data, or the data does not match the model; `out` contains a run and `resume` is false; the disk
            is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    check_processes(settings, world_size())
    spec = read_spec(settings.model)
    spec = replace(spec, schedule=settings.schedule or spec.schedule)
    settings = settings.resolved(spec.settings)
    with training_run(settings, out, resume=resume, max_seconds=max_seconds, sequence=settings.sequence) as run:
        device, ranks, rule = run.device, run.ranks, settings.position_rule
        model, trainable = build_transformer(settings, spec)
        if ranks is not None:
            apply_ulysses(model, ranks.sequence)
        schedule = Schedule(**asdict(spec.schedule))
        stores = open_stores(settings, spec, run, model.config.is_image_to_video)
        bfloat16 = torch.bfloat16 if run.config.precision == "bfloat16" else None
        if bfloat16 is not None and ranks is None:
            cast_frozen_weights(model)
        model.to(device)
        parallelize(
            model,
            model.blocks,
            ranks,
            checkpointing=settings.checkpointing,
            compile=run.config.compile,
            precision=bfloat16,
        )
        # With several ranks, FSDP applies mixed precision.
        autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=bfloat16 is not None and ranks is None)

        loader = _loader(settings, stores, model, schedule, ranks)
        loader.mixture.check_policy(run.config.num_steps)
        optimizer = optimizers.build_optimizer([trainable], settings.optim)
        ema = EMA({"model": trainable}, run.config.ema_decay)
        parts = {"model": trainable, "optimizer": optimizer, "ema": ema, "data": loader}
        run.restore(parts, lambda _: sum(loader.state.seen.values()))
        batches = loader.steps(run.config.num_steps, workers=run.config.workers, pin_memory=device.type == "cuda")
        warned: set[str] = set()
        for index, step in run.steps(batches):
            for bucket in step.collapsed:
                if (size := bucket.partition(":")[0]) not in warned:
                    warned.add(size)
                    run.tracker.print(f"warning: at step {run.done} the policy keeps hardly any {bucket}")
            loss, scalars = accumulate_gradients(model, step, schedule, device, ranks, rule, autocast)
            grad_norm = optimizers.clip_grad_norm(optimizer, settings.optim)
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                with autocast():  # for the matrix products of Muon
                    lr = optimizers.optimizer_step(optimizer, index, run.config.num_steps, settings.optim)
                ema.update(index)
                scalars |= {"loss": loss, "lr": lr, "grad_norm": grad_norm}
                scalars |= {"tokens": step.num_tokens, "useful": step.packing_efficiency}
                if not settings.policy.keeps_all:
                    scalars |= {f"kept/{name}": fraction for name, fraction in step.kept_fractions.items()}
            else:
                scalars = {}
            optimizer.zero_grad(set_to_none=True)
            shapes = throughput.batch_shapes(step.batches)
            flops = sum(throughput.step_flops(model.config, shapes, all_weights=settings.lora is None))
            run.tracker.step(run.done, scalars, StepWork(step.num_clips, step.num_tokens, flops / settings.sequence))

            held_out = stores.validation if run.due(run.config.validate_interval) else None
            sampling = settings.samples.prompts and run.due(settings.samples.interval)
            with run.tracker.pause():
                if held_out is not None or sampling:
                    with ema.swapped(), autocast():
                        if held_out is not None:
                            losses = validation_loss(model, held_out, spec, schedule, run.config.seed, rule)
                            run.tracker.write_validation(run.done, losses)
                        if sampling:
                            if accuracies := write_samples(model, spec, settings, run):
                                run.tracker.write(run.done, accuracies)
                            run.tracker.write_samples(run.done, run.sample_path)
                run.save()
        with ema.swapped():
            return export(model, spec, settings, run, loader)
    return None


def build_transformer(settings: DiffusionTraining, spec: ModelSpec) -> tuple[Transformer, nn.Module]:
    """Build the transformer in float32 on the CPU.

    Returns:
        The transformer, and its trainable part: all of it, or the LoRA.

    Raises:
        UserError: `settings.transformer` does not match the text encoder or the VAE; the sample images do not match the
            prompts; the weights do not match.
    """
    config = settings.transformer or spec.transformer
    for name in ("text_embed_dim", "max_text_seq_length", "out_channels"):
        if getattr(config, name) != getattr(spec.transformer, name):
            required = getattr(spec.transformer, name)
            raise UserError(f"transformer.{name}={getattr(config, name)} must be {required}, as in {settings.model}")
    generator = torch_generator("weights", settings.run.seed)
    if settings.transformer is not None:
        model = Transformer(config)
        init_weights(model, generator)
    else:
        model = load_network(spec.path, config).requires_grad_(True)
    if settings.add_image and not model.config.is_image_to_video:
        model = add_image_channels(model)
    _check_sample_images(model, settings)
    if settings.lora is None:
        return model.train(), model
    model.requires_grad_(False)
    lora = settings.lora
    factors = inject.create_lora(model, generator, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    inject.add_lora(model, factors, trainable=True)
    if lora.base_weights != "exact":
        quantize_base(model, lora.base_weights)
    return model.train(), inject.lora_parameters(model)


def cast_frozen_weights(model: Transformer) -> None:
    """Cast the frozen matrices to bfloat16 in place, to halve the memory of the base model in LoRA training. Results do
    not change, because autocast multiplies in bfloat16 anyway."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad and layer.weight.is_floating_point():
            layer.weight.data = layer.weight.data.bfloat16()


def _check_sample_images(model: Transformer, settings: DiffusionTraining) -> None:
    """Raise UserError unless the images of the samples match the model and the prompts and can be read."""
    samples = settings.samples
    if model.config.is_image_to_video and len(samples.images) != len(samples.prompts):
        raise UserError(
            f"an image-to-video model needs an image for each prompt, but there are {len(samples.images)} in "
            f"samples.images for {len(samples.prompts)} prompts: add images, or remove the prompts"
        )
    if samples.images and not model.config.is_image_to_video:
        raise UserError("samples.images needs an image-to-video model: remove it, or set add_image=true")
    for file in samples.images:
        from cogvideox.video.io import read_image  # imports PyAV, which encoded clips do not need

        if not Path(file).is_file():
            raise UserError(f"samples.images: {file} does not exist")
        read_image(file)


def accumulate_gradients(
    model: Transformer,
    step: StepBatches,
    schedule: Schedule,
    device: torch.device,
    ranks: Ranks | None = None,
    rule: PositionRule | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, dict[str, Scalar]]:
    """Run the forward and backward passes of all micro-batches (rows) of a step.

    The loss is the mean over all clips of the step, on all ranks, of each clip's MSE. Only the forward pass runs under
    `autocast`.

    Returns:
        The loss, and the loss by timestep bin (`timestep_bins`).
    """
    num_data_ranks = 1 if ranks is None else ranks.data.size()
    sums = torch.zeros(timestep_bins.NUM_BINS, 2, device=device)
    for batch in step.batches:
        batch = batch.to(device)
        with autocast():
            losses = clip_losses(partial(model.forward_packed, rule=rule, ofs=model.config.ofs), batch, schedule)
        (losses.sum() * (num_data_ranks / step.num_clips)).backward()
        sums += timestep_bins.bin_losses(losses, batch.timestep, schedule.num_train_timesteps)
    if ranks is not None:
        dist.all_reduce(sums, group=ranks.data)
    return sums[:, 0].sum() / step.num_clips, {**timestep_bins.bin_means(sums)}


def check_processes(settings: DiffusionTraining, num_ranks: int) -> None:
    """Raise UserError if the settings do not support this number of processes, or need a package that is missing."""
    if num_ranks > 1:
        if settings.optim.name == "muon":  # orthogonalizes whole matrices, but each rank has only some of their rows
            raise UserError("optim.name=muon supports a single process only: use adamw and a lower optim.lr")
        if settings.optim.moments == "8bit":  # quantization blocks are not aligned with shards
            raise UserError("optim.moments=8bit supports a single process only: use float32, which ranks shard anyway")
        if settings.lora is not None and settings.lora.base_weights != "exact":
            raise UserError(
                f"lora.base_weights={settings.lora.base_weights} supports a single process only: use exact, which "
                "ranks shard anyway"
            )
    elif settings.sequence > 1:
        raise UserError(
            f"sequence={settings.sequence} needs at least {settings.sequence} processes: start them with torchrun"
        )
    elif settings.optim.moments == "8bit":  # checked before clips are encoded, which may take hours
        import_torchao_adamw()


def _loader(
    settings: DiffusionTraining, stores: TrainingStores, model: Transformer, schedule: Schedule, ranks: Ranks | None
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
