"""Training of the end-to-end video captioner: pretraining of the vision encoder on facts, then captions.

Batches depend only on (seed, step), so a resumed run is bit-identical to an uninterrupted one on a CPU.
"""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from cogvideox.curation.captions.captioned_folder import CaptionedClip, captioned_clips, is_validation
from cogvideox.curation.captions.video_captioner.model import VideoCaptioner
from cogvideox.curation.captions.video_captioner.model_folder import save_captioner
from cogvideox.curation.captions.video_captioner.vision import prepare_frames
from cogvideox.errors import UserError
from cogvideox.parallel.environment import world_size
from cogvideox.toybox.judge.judge import fact_accuracies
from cogvideox.training.captioner.captioner_data import (
    CaptionBatch,
    folder_batch,
    read_clip,
    rendered_batch,
    scene_batch,
)
from cogvideox.training.captioner.config import CaptionerTraining
from cogvideox.training.captioner.fact_head import FactHead
from cogvideox.training.captioner.language_model import merged, open_language_model, trained_weights
from cogvideox.training.captioner.scores import mean_rouge_l, scene_facts, stated_facts
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.training.ema import EMA
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim.optimizers import build_optimizer, clip_grad_norm, optimizer_step
from cogvideox.training.precision import with_precision
from cogvideox.training.run import training_run

TOKENIZER_STEPS = 16
"""Number of batches whose captions the tokenizer of a small decoder is trained on."""
GENERATION_BATCH = 32


def train(
    settings: CaptionerTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Train a captioner in the folder `out`; the result is `out/captioner/`.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        The folder of the captioner, or None if the run was saved and stopped early (signal, `max_seconds`).

    Raises:
        UserError: several processes; the device is not available; a model or the data cannot be loaded; `out` contains
            a run and `resume` is false; the disk is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    if world_size() > 1:
        raise UserError("captioner training runs in a single process: start it without torchrun")
    with training_run(settings, out, resume=resume, max_seconds=max_seconds) as run:
        training, validation = _split(settings)
        model = build_captioner(settings, training).to(run.device)
        check_lengths(model, training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.run.seed + 1)
            head = FactHead(model.vision.width, settings.scenes.grammar).to(run.device)
        uses_facts = bool(settings.pretraining_steps or settings.fact_weight)
        modules = [model, head] if uses_facts else [model]
        weights = trained_weights(*modules)
        optimizer, ema = build_optimizer(modules, settings.optim), EMA({"model": weights}, run.config.ema_decay)
        size, bfloat16 = run.config.batch_size, run.config.precision == "bfloat16"
        autocast = partial(torch.autocast, run.device.type, torch.bfloat16, enabled=bfloat16)
        run.restore({"model": weights, "optimizer": optimizer, "ema": ema}, lambda steps: steps * size)
        make_batch = partial(folder_batch, settings, training) if training else partial(rendered_batch, settings)
        model.train()
        for step, batch in run.steps(run.prefetch(make_batch)):
            with autocast():
                losses = _losses(model, head if uses_facts else None, batch, settings, step)
            loss = losses.pop("loss")
            loss.backward()
            grad_norm, scalars = clip_grad_norm(optimizer, settings.optim), {}
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                lr = optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                scalars = {"loss": loss.detach(), "lr": lr, "grad_norm": grad_norm} | losses
            optimizer.zero_grad(set_to_none=True)
            run.tracker.step(run.done, scalars, StepWork(size, int(batch.num_frames.sum())))
            with run.tracker.pause():
                if run.due(run.config.validate_interval) and run.done > settings.pretraining_steps:
                    with ema.swapped():
                        run.tracker.write_validation(run.done, validate(model.eval(), settings, validation))
                    model.train()
                run.save()
        with ema.swapped():
            model.decoder = merged(model.decoder)
            save_captioner(model, run.out / "captioner")
        return run.out / "captioner"
    return None


def build_captioner(settings: CaptionerTraining, clips: list[CaptionedClip]) -> VideoCaptioner:
    """Build the model to train, with pretrained parts or random weights that depend on the seed only.

    Raises:
        UserError: a pretrained part cannot be loaded.
    """
    texts = [clip.caption for clip in clips]
    if not texts and not settings.model.decoder.path:
        texts = [caption for step in range(TOKENIZER_STEPS) for caption in scene_batch(settings, step)[2]]
    decoder, tokenizer = open_language_model(settings.model.decoder, settings.lora, texts, settings.run.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        model = VideoCaptioner(settings.model, decoder, tokenizer)
    if settings.freeze_vision:
        model.vision.network.requires_grad_(False)  # pyrefly: ignore
    return model


def check_lengths(model: VideoCaptioner, clips: list[CaptionedClip]) -> None:
    """Check that no caption is cut off in training, which would teach the model to end in the middle of a sentence.

    Raises:
        UserError: a caption has more than `model.max_tokens` tokens.
    """
    captions, limit = [clip.caption for clip in clips], model.config.max_tokens
    encoded = model.tokenizer(captions, add_special_tokens=False)["input_ids"] if captions else []
    lengths = [len(ids) + 1 for ids in encoded]  # with the end token
    if (longest := max(lengths, default=0)) > limit:
        too_long = sum(length > limit for length in lengths)
        raise UserError(
            f"{too_long} of {len(lengths)} captions have more than model.max_tokens={limit} tokens, the longest "
            f"{longest}: set model.max_tokens={longest}"
        )


def _split(settings: CaptionerTraining) -> tuple[list[CaptionedClip], list[CaptionedClip]]:
    """Return the training and the validation clips of `settings.data`."""
    clips = captioned_clips(settings.data) if settings.data else []
    held_out = [is_validation(clip.clip, settings.validation_fraction) for clip in clips]
    training = [clip for clip, held in zip(clips, held_out) if not held]
    if clips and not training:
        raise UserError("all captioned clips are in the validation set: caption more clips")
    return training, [clip for clip, held in zip(clips, held_out) if held][: settings.num_held_out]


def _losses(
    model: VideoCaptioner, head: nn.Module | None, batch: CaptionBatch, settings: CaptionerTraining, step: int
) -> dict[str, torch.Tensor]:
    """Return the loss to minimize as `loss`, and its terms."""
    tokens, valid = model.vision(batch.frames.to(model.device), batch.num_frames.to(model.device))
    losses: dict[str, torch.Tensor] = {}
    pretraining = step < settings.pretraining_steps
    if head is not None and (pretraining or settings.fact_weight):
        losses["fact_loss"] = head(tokens, batch.scenes, model.vision.num_cells)
    if pretraining:
        return {"loss": losses["fact_loss"], "fact_loss": losses["fact_loss"].detach()}
    caption_loss = model.caption_loss(tokens, valid, model.tokenize(batch.captions).to(model.device)).mean()
    loss = caption_loss + (settings.fact_weight * losses["fact_loss"] if "fact_loss" in losses else 0.0)
    return {"loss": loss, "caption_loss": caption_loss.detach()} | {k: v.detach() for k, v in losses.items()}


@torch.no_grad()
def validate(model: VideoCaptioner, settings: CaptionerTraining, clips: list[CaptionedClip]) -> dict[str, float]:
    """Caption the validation clips.

    Returns:
        Of clips from folders, `validation/rouge_l`. Of rendered scenes, the fraction of facts stated, by kind, under
        `validation/` for new scenes and `held_out/` for compositions that training does not contain.
    """
    if settings.data:
        frames = [read_clip(clip, settings.model.vision) for clip in clips]
        captions = [text for part in _batches(frames) for text, _, _ in model.generate(part)]
        references = [clip.caption for clip in clips]
        return {"validation/rouge_l": mean_rouge_l(captions, references)} if clips else {}
    scores = {}
    for name, split in (("validation", "training"), ("held_out", "held_out")):
        verdicts, losses = [], []
        for step in range(-(-settings.num_held_out // settings.run.batch_size)):
            scenes, frames, references = scene_batch(settings, step, HELD_OUT_SEED, split)
            generated = [text for part in _batches(list(frames)) for text, _, _ in model.generate(part)]
            verdicts += [stated_facts(text, scene_facts(scene)) for text, scene in zip(generated, scenes)]
            labels = model.tokenize(references)
            images = torch.stack([prepare_frames(clip, settings.model.vision) for clip in frames])
            num_frames = torch.full((len(images),), images.shape[1])
            losses.append(model(*(part.to(model.device) for part in (images, num_frames, labels))))
        scores[f"{name}/loss"] = torch.cat(losses)[: settings.num_held_out].mean().item()
        for kind, score in fact_accuracies(verdicts[: settings.num_held_out]).items():
            scores[f"{name}/{kind}"] = score.value
    return scores


def _batches(frames: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    return [frames[start : start + GENERATION_BATCH] for start in range(0, len(frames), GENERATION_BATCH)]
