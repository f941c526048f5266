"""Rendered toybox clips as training data of a diffusion run."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.dataset.config import ToyboxClips, ToyboxSource
from cogvideox.dataset.latents.toybox_latents import LatentTable, encode_toybox
from cogvideox.dataset.latents.toybox_store import CaptionEmbedder, ToyboxStore
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_folder import load_tokenizer
from cogvideox.pretrained.model_spec import ModelSpec
from cogvideox.progress import ProgressLines
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.metrics.tracker import print_above_heartbeat
from cogvideox.training.run import TrainingRun


class ToyboxEncoder:
    """Encoder of rendered toybox clips with the networks of the model. Latents are cached in `latents/` beside the run
    folder, for all runs with the same encoder."""

    def __init__(self, settings: DiffusionTraining, spec: ModelSpec, run: TrainingRun) -> None:
        self.spec, self.run = spec, run
        assert settings.norm_statistics is not None  # the config is resolved
        self.bfloat16, self.norm_statistics = settings.run.precision == "bfloat16", settings.norm_statistics
        self.vae = load_network(spec.path, spec.vae, device=run.device)
        encoder = load_network(spec.path, spec.text_encoder)
        self.embed = CaptionEmbedder(encoder, load_tokenizer(spec), spec.settings.text_length)
        self._tables: dict[ToyboxClips, LatentTable] = {}  # sources may share clips

    def open(self, source: ToyboxSource) -> ToyboxStore:
        """Open the clips of a source as a store. Clips that are not cached are rendered and encoded first."""
        run, clips = self.run, source.clips

        lines = ProgressLines(print_above_heartbeat)

        def on_progress(done: int, total: int) -> None:
            lines(f"encoding {clips}", done, total)
            run.preemption.check(time_limit=done == total)

        def encode() -> LatentTable:
            return encode_toybox(
                self.vae,
                clips,
                run.out.parent / "latents",
                batch_size=4 if run.device.type == "cpu" else 128,
                workers=run.config.workers,
                norm_statistics=self.norm_statistics,
                bfloat16=self.bfloat16,
                on_progress=on_progress,
            )

        if clips not in self._tables:
            run.on_rank_zero(encode)  # the other ranks read the cache
            self._tables[clips] = encode()
        return ToyboxStore(source, self._tables[clips], self.embed)

    def null_text(self, kind: Literal["empty", "zero"]) -> Float[Tensor, "n d"]:
        """Return the unconditional prompt embedding."""
        text = self.embed("").float()
        return text if kind == "empty" else torch.zeros_like(text)
