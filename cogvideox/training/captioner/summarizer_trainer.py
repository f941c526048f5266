"""Supervised fine-tuning of a language model on summaries of captions (Section 3.4), with all weights or LoRA.

The result is a model folder for the back-end `model` of the stage `summary`. The loss counts only the tokens of the
summary. Batches depend only on (seed, step), so a resumed run is bit-identical to an uninterrupted one on a CPU.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.atomic_io import atomic_folder
from cogvideox.curation.captions.captioned_folder import SummaryPair
from cogvideox.curation.captions.quality.checks import CheckConfig, remove_opener
from cogvideox.curation.captions.video_captioner.model import IGNORED
from cogvideox.dataset.prefetch import to_device
from cogvideox.errors import UserError
from cogvideox.parallel.environment import world_size
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.training.captioner.config import SummarizerTraining
from cogvideox.training.captioner.language_model import merged, open_language_model, trained_weights
from cogvideox.training.captioner.scores import mean_rouge_l, usable
from cogvideox.training.captioner.summarizer_data import PairBatch, PairData, chat_prompt, split_pairs
from cogvideox.training.ema import EMA
from cogvideox.training.metrics.tracker import StepWork
from cogvideox.training.optim.optimizers import build_optimizer, clip_grad_norm, optimizer_step
from cogvideox.training.precision import with_precision
from cogvideox.training.run import training_run

MAX_SUMMARY_TOKENS = 200
MAX_SUMMARY_WORDS = 100


def train(
    settings: SummarizerTraining, out: str | Path, *, resume: bool = False, max_seconds: float | None = None
) -> Path | None:
    """Fine-tune a summarizer in the folder `out`; the result is the model folder `out/summarizer/`.

    Args:
        resume: continue from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.

    Returns:
        The model folder, or None if the run was saved and stopped early (signal, `max_seconds`).

    Raises:
        UserError: several processes; the device is not available; the model or the data cannot be loaded; `out`
            contains a run and `resume` is false; the disk is full; too many consecutive steps are skipped.
    """
    settings = with_precision(settings, out, resume=resume)
    if world_size() > 1:
        raise UserError("summarizer training runs in a single process: start it without torchrun")
    with training_run(settings, out, resume=resume, max_seconds=max_seconds) as run:
        pairs, held_out = split_pairs(settings)
        texts = [part for pair in pairs for part in (pair.prompt, pair.summary)]
        network, tokenizer = open_language_model(settings.model, settings.lora, texts, settings.run.seed)
        network.to(run.device)
        data, validation = PairData(settings, tokenizer, pairs), PairData(settings, tokenizer, held_out)
        weights = trained_weights(network)
        optimizer, ema = build_optimizer([network], settings.optim), EMA({"model": weights}, run.config.ema_decay)
        size, bfloat16 = run.config.batch_size, run.config.precision == "bfloat16"
        autocast = partial(torch.autocast, run.device.type, torch.bfloat16, enabled=bfloat16)
        run.restore({"model": weights, "optimizer": optimizer, "ema": ema}, lambda steps: steps * size)
        network.train()
        for step, batch in run.steps(run.prefetch(data.make_batch)):
            batch = to_device(batch, run.device)
            with autocast():
                loss = summary_loss(network, batch).mean()
            loss.backward()
            grad_norm, scalars = clip_grad_norm(optimizer, settings.optim), {}
            if run.guard.check(run.done, loss=loss, grad_norm=grad_norm):
                lr = optimizer_step(optimizer, step, run.config.num_steps, settings.optim)
                ema.update(step)
                scalars = {"loss": loss.detach(), "lr": lr, "grad_norm": grad_norm}
            optimizer.zero_grad(set_to_none=True)
            run.tracker.step(run.done, scalars, StepWork(size, int(batch.mask.sum())))
            with run.tracker.pause():
                if run.due(run.config.validate_interval):
                    with ema.swapped():
                        scores = validate(network.eval(), tokenizer, settings, validation, held_out)
                        run.tracker.write_validation(run.done, scores)
                    network.train()
                run.save()
        with ema.swapped():
            export(network, tokenizer, run.out / "summarizer")
        return run.out / "summarizer"
    return None


def summary_loss(network: nn.Module, batch: PairBatch) -> Float[Tensor, " b"]:
    """Compute the mean negative log-likelihood of each summary's tokens, in nats."""
    counted = batch.labels != IGNORED
    kept = int(counted.sum(1).max())
    positions = (batch.mask.cumsum(1) - 1).clamp(min=0)
    logits = network(batch.ids, attention_mask=batch.mask, position_ids=positions, logits_to_keep=kept + 1).logits
    labels = batch.labels[:, -kept:]
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(labels.shape).sum(1) / counted.sum(1)


@torch.no_grad()
def validate(
    network: nn.Module, tokenizer: Any, settings: SummarizerTraining, data: PairData, pairs: list[SummaryPair]
) -> dict[str, float]:
    """Compute `validation/loss` on the validation pairs, and score generated summaries.

    Returns:
        Of the first `settings.num_generated` pairs also `usable`, the fraction that pass the caption checks; `rouge_l`
        to the reference; and `facts`, the fraction of the toybox facts of the short captions in usable summaries.
    """
    device, size, count = next(network.parameters()).device, settings.run.batch_size, len(data.examples)
    parts = [data.batch(range(start, min(start + size, count))) for start in range(0, count, size)]
    losses = [summary_loss(network, to_device(part, device)) for part in parts]
    scores = {"validation/loss": torch.cat(losses).mean().item()}
    pairs = pairs[: settings.num_generated]
    if not pairs:
        return scores
    summaries = summarize(network, tokenizer, [pair.prompt for pair in pairs], size)
    passed = [usable(text, CheckConfig(), MAX_SUMMARY_WORDS, cut_off) for text, cut_off in summaries]
    right = total = 0
    for pair, (text, _), is_usable in zip(pairs, summaries, passed):
        stated = parse_prompt(text, "full") if is_usable else {}
        facts = parse_prompt(pair.short, "full")
        right, total = right + sum(stated.get(name) == word for name, word in facts.items()), total + len(facts)
    scores["validation/usable"] = sum(passed) / len(passed)
    scores["validation/rouge_l"] = mean_rouge_l([text for text, _ in summaries], [pair.summary for pair in pairs])
    return scores | ({"validation/facts": right / total} if total else {})


@torch.inference_mode()
def summarize(network: nn.Module, tokenizer: Any, prompts: list[str], batch_size: int) -> list[tuple[str, bool]]:
    """Summarize prompts of different lengths in batches, greedily.

    Returns:
        For each prompt the summary without its opener, and whether it was cut off.
    """
    device, results = next(network.parameters()).device, []
    for start in range(0, len(prompts), batch_size):
        texts = [chat_prompt(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        output = network.generate(  # pyrefly: ignore
            input_ids=inputs["input_ids"].to(device),
            attention_mask=inputs["attention_mask"].to(device),
            max_new_tokens=MAX_SUMMARY_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for ids in output[:, inputs["input_ids"].shape[1] :].tolist():
            text = tokenizer.decode(ids, skip_special_tokens=True)
            results.append((remove_opener(" ".join(text.split())), tokenizer.eos_token_id not in ids))
    return results


def export(network: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Merge LoRA and write a model folder for transformers.

    Raises:
        UserError: the folder cannot be written.
    """
    with atomic_folder(folder) as partial_folder:
        merged(network).save_pretrained(str(partial_folder))  # pyrefly: ignore
        tokenizer.save_pretrained(str(partial_folder))
