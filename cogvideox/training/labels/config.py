"""Settings of filters on a video-language model."""

from dataclasses import dataclass
from typing import Literal

from cogvideox.errors import UserError


@dataclass(frozen=True)
class VlmLabelsConfig:
    """How a video-language model is fine-tuned to find labels.

    The paper does not say whether its filters are heads or answers of the model, so both can be trained and compared.

    Attributes:
        answer: "head" is a linear layer on the last hidden state, trained by binary cross-entropy, for all labels at
            once; "chat" lets the model answer a question per label by yes or no, trained by next-token cross-entropy.
        num_frames: evenly spaced frames of a clip that the model sees.
        longest_side: of these frames, in pixels.
        rank, alpha: of LoRA; its layers are `target_modules`, of the language model and the vision encoder.
        learning_rate, weight_decay: of AdamW; the rate decays linearly to 0.
        num_steps, batch_size: of the training. Clips with and without a label are drawn equally often.
        max_grad_norm: largest norm of the gradient.
        seed: of the order of the clips and of the initial weights.
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
        if min(self.num_frames, self.longest_side, self.rank, self.num_steps, self.batch_size) < 1:
            raise UserError("num_frames, longest_side, rank, num_steps and batch_size must be 1 or more")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise UserError("learning_rate and max_grad_norm must be above 0")
