"""Settings for fine-tuning a video-language model into a label classifier."""

from dataclasses import dataclass
from typing import Literal

from cogvideox.config import check_minimum
from cogvideox.errors import UserError


@dataclass(frozen=True)
class VlmLabelsConfig:
    """Settings for fine-tuning a video-language model to predict the negative labels.

    The paper does not say whether its filters are classification heads or text answers, so both are supported.

    Attributes:
        answer: "head" is a linear layer on the last hidden state for all labels, trained with binary cross-entropy;
            "chat" answers a yes/no question per label as text, trained with next-token cross-entropy.
        num_frames: number of evenly spaced frames per clip.
        longest_side: longest side of these frames, in pixels.
        rank, alpha: rank and scale (alpha) of LoRA.
        target_modules: names of the layers with LoRA, in the language model and the vision encoder.
        learning_rate, weight_decay: settings of AdamW; the learning rate decays linearly to 0.
        num_steps: number of training steps.
        batch_size: number of clips per step. Clips with and without a label are drawn equally often.
        max_grad_norm: gradient norm above which gradients are clipped.
        seed: seed of the clip order and of the initial weights.
    """

    answer: Literal["head", "chat"] = "head"
    num_frames: int = 8
    longest_side: int = 336
    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    num_steps: int = 1000
    batch_size: int = 4
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.answer not in ("head", "chat"):
            raise UserError(f"answer={self.answer!r} must be head or chat")
        check_minimum(self, num_frames=1, longest_side=1, rank=1, num_steps=1, batch_size=1)
        check_minimum(self, above=["learning_rate", "max_grad_norm"])
