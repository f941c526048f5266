"""Whole pipelines of diffusers with tiny random weights, and what they make."""

from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from tests import tiny

SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm++": "CogVideoXDPMScheduler"}


def save_theirs(variant: str, root: Path, **sizes) -> Path:
    """A pipeline that diffusers made and saved, with random weights; the sizes are those of `tiny`, but for `sizes`."""
    torch.manual_seed(1)
    tiny.tokenizer().save(root / "tokenizer")
    config = {**tiny.text_config().to_transformers(), "dropout_rate": 0.0}
    network = replace(tiny.transformer(variant), **sizes)
    transformer = diffusers.CogVideoXTransformer3DModel.from_config(network.to_diffusers())
    if network.use_learned_positional_embeddings:
        torch.nn.init.normal_(transformer.patch_embed.pos_embedding)
    kind = "CogVideoXImageToVideoPipeline" if variant in tiny.IMAGE_TRANSFORMERS else "CogVideoXPipeline"
    pipe = getattr(diffusers, kind)(
        tokenizer=transformers.T5Tokenizer.from_pretrained(root / "tokenizer"),
        text_encoder=transformers.T5EncoderModel(transformers.T5Config(**config)),
        transformer=transformer,
        vae=diffusers.AutoencoderKLCogVideoX.from_config(tiny.vae_config(variant).to_diffusers()),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            snr_shift_scale=tiny.SNR_SHIFT.get(variant, 1.0),
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
        ),
    )
    pipe.save_pretrained(root / "model")
    return root / "model"


def their_frames(kind: str, path: Path, sampler: str, text_length: int, **values) -> np.ndarray:
    """The frames [t h w 3] in 0..1 that a pipeline of that class makes. `image` and `video` are uint8 arrays."""
    pipe = getattr(diffusers, kind).from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, SCHEDULERS[sampler]).from_config(pipe.scheduler.config)
    seed = torch.Generator().manual_seed(values.pop("seed"))
    values["use_dynamic_cfg"] = values.pop("dynamic_guidance")
    if "image" in values:
        values["image"] = Image.fromarray(values["image"])
    if "video" in values:
        values["video"] = [Image.fromarray(frame) for frame in values["video"]]
        del values["num_frames"]  # which is that of the video
    return pipe(**values, generator=seed, max_sequence_length=text_length, output_type="np").frames[0]


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    error = np.mean((ours.astype(np.float64) - reference) ** 2)
    return float("inf") if error == 0 else float(-10 * np.log10(error))
