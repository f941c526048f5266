"""Loading of a language model for fine-tuning: all weights or LoRA, and the weights that are trained."""

from typing import Any

import torch
from torch import nn

from cogvideox.curation.captions.video_captioner.config import DecoderConfig
from cogvideox.curation.captions.video_captioner.decoder import build_language_model, load_language_model
from cogvideox.errors import UserError
from cogvideox.training.captioner.config import LanguageLora


def open_language_model(
    config: DecoderConfig, lora: LanguageLora | None, texts: list[str], seed: int
) -> tuple[nn.Module, Any]:
    """Return the model to train, with LoRA if `lora` is set, and its tokenizer. Random weights depend on the seed only.

    Args:
        texts: captions that the tokenizer of a small model with random weights is trained on.

    Raises:
        UserError: the model cannot be loaded, or LoRA does not fit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, tokenizer = load_language_model(config.path) if config.path else build_language_model(config, texts)
        return (network if lora is None else add_lora(network, lora)), tokenizer


def add_lora(network: nn.Module, config: LanguageLora) -> nn.Module:
    """Freeze a language model and add LoRA.

    Raises:
        UserError: peft is not installed, or the network has no layers with these names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("LoRA on language models needs peft: pip install 'cogvideox[llm]'") from None
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules))  # pyrefly: ignore
    try:
        return get_peft_model(network, lora)  # pyrefly: ignore
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the model has no layers {', '.join(config.target_modules)}: {reason}") from None


def merged(network: nn.Module) -> nn.Module:
    """Return the model with LoRA merged into its weights; a model without LoRA is returned unchanged."""
    return network.merge_and_unload() if hasattr(network, "merge_and_unload") else network  # pyrefly: ignore


def trained_weights(*modules: nn.Module) -> nn.ParameterDict:
    """Return the trainable parameters of modules as one module, for checkpoints and the EMA."""
    weights = {}
    for index, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                weights[f"{index}/{name.replace('.', '/')}"] = parameter
    return nn.ParameterDict(weights)
