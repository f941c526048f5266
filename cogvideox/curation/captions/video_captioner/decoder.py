"""The language model of the captioner: a model folder or GGUF file, or a small LLaMA with random weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cogvideox.curation.captions.video_captioner.config import DecoderConfig
from cogvideox.errors import UserError

END, PAD = "<|end|>", "<|pad|>"
_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}\n{% if message.role == 'assistant' %}" + END + "{% endif %}"
    "{% endfor %}"
)


def load_language_model(path: str | Path) -> tuple[nn.Module, Any]:
    """Load a causal language model in float32, and its tokenizer, from a folder or a GGUF file.

    Raises:
        UserError: transformers is not installed, or the path is not a language model.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise UserError("language models need transformers: pip install 'cogvideox[llm]'") from None
    path = Path(path)
    if not path.exists():
        raise UserError(f"cannot read {path}: it does not exist; specify a model folder or a GGUF file")
    options: dict[str, Any] = {"local_files_only": True}
    if path.is_file():
        options["gguf_file"] = path.name
    folder = str(path.parent if path.is_file() else path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot load {path} as a language model: {reason}") from None
    if path.is_file():  # the weights are float32 now, but transformers does not save models that were quantized
        network.hf_quantizer = None
        network.is_quantized = False
        if hasattr(network.config, "quantization_config"):
            del network.config.quantization_config
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {path} has no end-of-sequence token: choose another model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network, tokenizer


def build_language_model(config: DecoderConfig, texts: Iterable[str]) -> tuple[nn.Module, Any]:
    """Build a small LLaMA with random weights, and train its byte-level BPE tokenizer on `texts`."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    except ImportError:
        raise UserError("language models need transformers: pip install 'cogvideox[llm]'") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END, PAD],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.chat_template = _TEMPLATE
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=config.width,
            intermediate_size=3 * config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    return network, fast
