"""Estimate of the resources of captioner training, without activations."""

import torch

from cogvideox.curation.captions.video_captioner.config import DecoderConfig
from cogvideox.curation.captions.video_captioner.vision import SmallVisionEncoder
from cogvideox.training.captioner.config import CaptionerTraining, LanguageLora, SummarizerTraining
from cogvideox.training.resources.estimate import FLOAT32, ResourceEstimate


def estimate_captioning(settings: CaptionerTraining | SummarizerTraining) -> ResourceEstimate | None:
    """Estimate the resources of a run; None if it loads a pretrained model, whose size is known after loading only."""
    is_captioner = isinstance(settings, CaptionerTraining)
    decoder = settings.model.decoder if isinstance(settings, CaptionerTraining) else settings.model
    if decoder.path or (is_captioner and settings.model.vision.path):
        return None
    parameters = language_parameters(decoder)
    trained = parameters if settings.lora is None else lora_parameters(decoder, settings.lora)
    if isinstance(settings, CaptionerTraining):
        with torch.device("meta"):
            vision = SmallVisionEncoder(settings.model.vision)
        width = vision.width
        others = sum(weight.numel() for weight in vision.parameters())
        others += 2 * width + (width + 1) * decoder.width + (decoder.width + 1) * decoder.width  # the projector
        parameters, trained = parameters + others, trained + others
    memory = {
        "weights": FLOAT32 * parameters,
        "gradients": FLOAT32 * trained,
        "optimizer": 2 * FLOAT32 * trained,
        "EMA": FLOAT32 * trained,
    }
    return ResourceEstimate(f"{settings.run.batch_size} clips", parameters, trained, memory, None)


def language_parameters(config: DecoderConfig) -> int:
    """Return the number of parameters of the small language model, with the largest vocabulary."""
    width = config.width
    return config.vocab_size * width + config.num_layers * (13 * width**2 + 2 * width) + width


def lora_parameters(config: DecoderConfig, lora: LanguageLora) -> int:
    """Return the number of parameters of LoRA for the small language model."""
    size = {"gate_proj": 4, "up_proj": 4, "down_proj": 4}
    return config.num_layers * lora.rank * config.width * sum(size.get(name, 2) for name in lora.target_modules)
