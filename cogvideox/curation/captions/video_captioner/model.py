"""The video captioner: vision encoder, projector and decoder.

Axes: `b` clips, `t` frames, `s` frame size, `n` vision tokens, `m` caption tokens, `d` width of the decoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from cogvideox.curation.captions.video_captioner.config import CaptionerConfig
from cogvideox.curation.captions.video_captioner.vision import build_vision_encoder, prepare_frames

IGNORED = -100
"""Label of tokens that the loss ignores."""


class VideoCaptioner(nn.Module):
    """Model that generates the caption of a clip from its vision tokens.

    Args:
        decoder: a causal language model of transformers.
        tokenizer: its tokenizer, with an end token and a padding token.
    """

    def __init__(self, config: CaptionerConfig, decoder: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.vision = build_vision_encoder(config.vision)
        width = decoder.get_input_embeddings().embedding_dim  # pyrefly: ignore
        self.projector = nn.Sequential(
            nn.LayerNorm(self.vision.width), nn.Linear(self.vision.width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.projector[1].weight.device  # pyrefly: ignore

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "b m"]:
        """Return the token ids of captions, each with the end token; padding is `IGNORED`."""
        encoded = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        limit = self.config.max_tokens
        rows = [torch.tensor([*ids[: limit - 1], self.tokenizer.eos_token_id]) for ids in encoded]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def forward(
        self, frames: Float[Tensor, "b t 3 s s"], num_frames: Int[Tensor, " b"], labels: Int[Tensor, "b m"]
    ) -> Float[Tensor, " b"]:
        """Compute the mean negative log-likelihood of each caption's tokens, in nats."""
        tokens, valid = self.vision(frames, num_frames)
        return self.caption_loss(tokens, valid, labels)

    def caption_loss(
        self, tokens: Float[Tensor, "b n e"], valid: Bool[Tensor, "b n"], labels: Int[Tensor, "b m"]
    ) -> Float[Tensor, " b"]:
        """Compute the loss from the tokens of the vision encoder."""
        prefix = self.projector(tokens)
        counted = labels != IGNORED
        embedded = self.decoder.get_input_embeddings()(labels.clamp(min=0)[:, :-1])  # pyrefly: ignore
        mask = torch.cat((valid, counted[:, :-1]), dim=1).long()
        logits = self.decoder(
            inputs_embeds=torch.cat((prefix, embedded), dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=labels.shape[1],
        ).logits.float()
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
        return losses.view(labels.shape).sum(1) / counted.sum(1)

    @torch.inference_mode()
    def generate(self, clips: Sequence[UInt8[Tensor, "_ _ _ 3"]]) -> list[tuple[str, int, bool]]:
        """Caption clips of different lengths and sizes in one batch, greedily.

        Returns:
            For each clip the caption, its number of tokens, and whether it was cut off at `config.max_tokens`.
        """
        prepared = [prepare_frames(clip.to(self.device), self.config.vision) for clip in clips]
        num_frames = torch.tensor([len(frames) for frames in prepared], device=self.device)
        tokens, valid = self.vision(nn.utils.rnn.pad_sequence(prepared, batch_first=True), num_frames)
        prefix = self.projector(tokens)
        # Left padding, so that every caption begins at the same position.
        order = valid.long().argsort(dim=1, stable=True)
        prefix = prefix.gather(1, order[..., None].expand_as(prefix))
        output = self.decoder.generate(  # pyrefly: ignore
            inputs_embeds=prefix,
            attention_mask=valid.gather(1, order).long(),
            max_new_tokens=self.config.max_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        captions = []
        for ids in output.tolist():
            end = self.tokenizer.eos_token_id in ids
            ids = ids[: ids.index(self.tokenizer.eos_token_id)] if end else ids
            captions.append((self.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids) + end, not end))
        return captions
