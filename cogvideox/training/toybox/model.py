"""Transformer and text encoder as a single module, trained by one optimizer."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.text.encoder import T5Encoder
from cogvideox.transformer.model import Transformer


class TextToVideo(nn.Module):
    """Predicts the velocity from noisy latents, token ids of the prompt and timesteps."""

    def __init__(self, transformer: Transformer, text_encoder: T5Encoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(
        self, latents: Float[Tensor, "b c t h w"], ids: Int[Tensor, "b n"], timestep: Int[Tensor, "b"]
    ) -> Float[Tensor, "b c t h w"]:
        return self.transformer(latents, self.text_encoder(ids), timestep)
