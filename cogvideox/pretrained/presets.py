"""Specs of the five official models without their files, for estimates before a download."""

from pathlib import Path

from cogvideox.diffusion.config import PRESETS as SCHEDULES
from cogvideox.pretrained.model_settings import official_settings
from cogvideox.pretrained.model_spec import WEIGHT_STEMS, ModelSpec
from cogvideox.pretrained.offload.plan import ModelProfile
from cogvideox.pretrained.offload.transformer_cost import ITEMSIZE
from cogvideox.text.config import T5Config
from cogvideox.transformer.presets import PRESETS as TRANSFORMERS
from cogvideox.vae.config import PRESETS as VAES

OFFICIAL_MODELS = tuple(TRANSFORMERS)


def preset_spec(name: str) -> ModelSpec:
    """Return the spec of an official model, as `read_spec` reads it from its folder. Its path does not exist.

    Args:
        name: one of `OFFICIAL_MODELS`.
    """
    transformer, vae = TRANSFORMERS[name](), VAES[name]()
    settings = official_settings(transformer, vae, "ddim" if name == "2b" else "dpm++")
    return ModelSpec(name, Path(name), transformer, vae, T5Config(), SCHEDULES[name](), settings)


def preset_profile(spec: ModelSpec) -> ModelProfile:
    """Return the properties of a model that a memory plan depends on, for weights stored in its training dtype."""
    itemsizes = dict.fromkeys(WEIGHT_STEMS, ITEMSIZE[spec.settings.dtype])
    return ModelProfile(spec.name, spec.transformer, spec.vae, spec.text_encoder, spec.settings.text_length, itemsizes)
