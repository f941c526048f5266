"""Video-language model that predicts labels: loading, inputs and probabilities.

Any image-text-to-text model of transformers can be used, such as Qwen2-VL, LLaVA or LLaVA-OneVision. The frames of a
clip are passed as images, each preceded by its time, because all of these models accept images.

Axes: `b` clips, `d` width of the language model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.curation.signals.base import SampledFrames
from cogvideox.errors import UserError
from cogvideox.training.labels.config import VlmLabelsConfig

YES, NO = "Yes", "No"
_HEAD_QUESTION = "Which defects does this video have? " + "; ".join(label.title for label in LABELS.values())


class VlmLabels(nn.Module):
    """A video-language model with LoRA, and a classification head if `config.answer` is "head".

    Args:
        network: transformers model, with or without LoRA.
        processor: processor of the model.
    """

    def __init__(self, network: nn.Module, processor: Any, config: VlmLabelsConfig) -> None:
        super().__init__()
        self.network, self.processor, self.config = network, processor, config
        processor.tokenizer.padding_side = "left"  # the last token of every row is the last of its prompt
        width = network.get_input_embeddings().embedding_dim  # pyrefly: ignore
        self.head = nn.Linear(width, len(LABELS)) if config.answer == "head" else None
        self.yes, self.no = (_answer_token(processor.tokenizer, word) for word in (YES, NO))

    def inputs(self, clips: Sequence[SampledFrames], questions: Sequence[str]) -> dict[str, Any]:
        """Return the model's inputs for one question per clip."""
        texts, images = [], []
        for clip, question in zip(clips, questions, strict=True):
            content: list[dict[str, str]] = []
            for time in clip.times:
                content += [{"type": "text", "text": f"{time:.1f} s: "}, {"type": "image"}]
            content.append({"type": "text", "text": f"{question} Answer {YES} or {NO}."})
            message = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
            images.append(list(clip.frames))
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        device = next(self.network.parameters()).device
        return {name: value.to(device) for name, value in inputs.items()}

    def head_logits(self, clips: Sequence[SampledFrames]) -> Float[Tensor, "b labels"]:
        """Return the logits of all labels, computed by the head."""
        assert self.head is not None
        inputs = self.inputs(clips, [_HEAD_QUESTION] * len(clips))
        hidden = self.network(**inputs, output_hidden_states=True).hidden_states[-1][:, -1]  # b d
        return self.head(hidden.float())

    def chat_logits(self, clips: Sequence[SampledFrames], labels: Sequence[str]) -> Float[Tensor, "b vocabulary"]:
        """Return the logits of the first answer token, for one label's question per clip."""
        inputs = self.inputs(clips, [LABELS[name].question for name in labels])
        return self.network(**inputs).logits[:, -1].float()

    @torch.inference_mode()
    def probabilities(self, clip: SampledFrames) -> dict[str, float]:
        """Return the probability of each label; in chat mode, the probability of yes relative to no."""
        if self.head is not None:
            return dict(zip(LABELS, self.head_logits([clip])[0].sigmoid().tolist(), strict=True))
        logits = self.chat_logits([clip] * len(LABELS), list(LABELS))
        return dict(zip(LABELS, (logits[:, self.yes] - logits[:, self.no]).sigmoid().tolist(), strict=True))


def load_network(folder: str | Path, device: torch.device) -> tuple[nn.Module, Any]:
    """Load a video-language model and its processor from a folder, in bfloat16 on a GPU.

    Raises:
        UserError: transformers is not installed, or the folder is not an image-text-to-text model.
    """
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UserError("video-language models need transformers: pip install 'cogvideox[llm]'") from None

    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} is not a transformers model folder: it has no config.json")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        network = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cannot load {folder} as an image-text-to-text model: {reason}") from None
    return network.to(device), processor


def add_lora(network: nn.Module, config: VlmLabelsConfig) -> nn.Module:
    """Freeze a network, and add LoRA to `config.target_modules`.

    Raises:
        UserError: peft is not installed, or the network has no layers with these names.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("LoRA on video-language models needs peft: pip install 'cogvideox[llm]'") from None

    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules))  # pyrefly: ignore
    try:
        return get_peft_model(network, lora)  # pyrefly: ignore
    except ValueError as error:
        names = ", ".join(config.target_modules)
        raise UserError(
            f"the model has no layers {names}; set target_modules: {' '.join(str(error).split())[:200]}"
        ) from None


def _answer_token(tokenizer: Any, word: str) -> int:
    """Return the first token of an answer."""
    tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not tokens or tokens[0] == tokenizer.unk_token_id:
        raise UserError(f"the model's tokenizer has no token for the answer {word}")
    return tokens[0]
