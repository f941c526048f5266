"""Save and load a video captioner.

FOLDER/captioner.json            the config
FOLDER/captioner.safetensors     vision encoder (without a pretrained one) and projector
FOLDER/decoder/                  language model and tokenizer, as transformers writes them
FOLDER/vision/                   the pretrained vision encoder, if there is one
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from cogvideox import config as configs
from cogvideox.atomic_io import atomic_folder, write_text
from cogvideox.curation.captions.video_captioner.config import CaptionerConfig
from cogvideox.curation.captions.video_captioner.decoder import load_language_model
from cogvideox.curation.captions.video_captioner.model import VideoCaptioner
from cogvideox.errors import UserError
from cogvideox.formatting import abbreviate
from cogvideox.state_dict.safetensors_io import load_state, save_state

CONFIG, WEIGHTS = "captioner.json", "captioner.safetensors"
_PRETRAINED = ("decoder.", "vision.network.")


def save_captioner(model: VideoCaptioner, folder: str | Path) -> None:
    """Write a captioner to a folder, which replaces an existing one.

    Raises:
        UserError: the folder cannot be written.
    """
    with atomic_folder(Path(folder)) as partial:
        config = model.config
        model.decoder.save_pretrained(str(partial / "decoder"))  # pyrefly: ignore
        model.tokenizer.save_pretrained(str(partial / "decoder"))
        config = replace(config, decoder=replace(config.decoder, path="decoder"))
        if config.vision.path:
            model.vision.network.save_pretrained(str(partial / "vision"))  # pyrefly: ignore
            preprocessor = Path(config.vision.path) / "preprocessor_config.json"
            if preprocessor.is_file():
                write_text(partial / "vision" / preprocessor.name, preprocessor.read_text(encoding="utf-8"))
            config = replace(config, vision=replace(config.vision, path="vision"))
        state = {name: weight for name, weight in model.state_dict().items() if not name.startswith(_PRETRAINED)}
        save_state(state, partial / WEIGHTS)
        write_text(partial / CONFIG, json.dumps(configs.to_dict(config), indent=2) + "\n")


def load_captioner(folder: str | Path, device: torch.device | str = "cpu") -> VideoCaptioner:
    """Load a captioner for generation.

    Raises:
        UserError: the folder is not a captioner, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a video captioner: it has no {CONFIG}; train one with `toybox-captioner`")
    config = configs.load(CaptionerConfig, folder / CONFIG)
    vision = replace(config.vision, path=str(folder / config.vision.path) if config.vision.path else "")
    decoder, tokenizer = load_language_model(folder / config.decoder.path)
    model = VideoCaptioner(replace(config, vision=vision), decoder, tokenizer)
    state = load_state(folder / WEIGHTS)
    missing = [name for name in model.state_dict() if not name.startswith(_PRETRAINED) and name not in state]
    try:
        unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS} does not match {CONFIG}: {' '.join(str(error).split())[:300]}") from None
    if missing or unexpected:
        names = abbreviate([*missing, *unexpected])
        raise UserError(f"{folder / WEIGHTS} does not match {CONFIG}: missing or unexpected are {names}")
    return model.to(device).eval()
