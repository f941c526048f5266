"""Recipes of captioner training."""

from cogvideox.curation.captions.video_captioner.config import CaptionerConfig, DecoderConfig
from cogvideox.training.captioner.config import CaptionerTraining, LanguageLora, SummarizerTraining
from cogvideox.training.config import OptimSettings, RunSettings


def toybox_summarizer() -> SummarizerTraining:
    """Fine-tune a small language model with LoRA on the summaries of a captioned folder: model.path and --data."""
    return SummarizerTraining(
        model=DecoderConfig(),
        data=("captioned",),
        optim=OptimSettings(lr=5e-4, warmup_steps=4, weight_decay=0.0, final_lr=0.1),
        run=RunSettings(
            num_steps=60, batch_size=4, ema_decay=0.8, log_interval=5, save_interval=20, validate_interval=60
        ),
        lora=LanguageLora(),
    )


def toybox_captioner() -> CaptionerTraining:
    """An end-to-end captioner of rendered scenes with one or two toys, 48x48, ten minutes on one CPU core."""
    return CaptionerTraining(
        model=CaptionerConfig(),
        optim=OptimSettings(lr=4e-3, warmup_steps=50, weight_decay=0.01, final_lr=0.02),
        run=RunSettings(
            num_steps=1_500, batch_size=32, ema_decay=0.99, log_interval=50, save_interval=250, validate_interval=500
        ),
        pretraining_steps=650,
        fact_weight=0.5,
        num_held_out=128,
    )


CAPTIONING = {"toybox-summarizer": toybox_summarizer, "toybox-captioner": toybox_captioner}
