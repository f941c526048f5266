"""Weight files: exchange with diffusers and transformers in both directions is exact."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import diffusers_keymap
from cogvideox.pretrained.conversion.convert import plan_conversion
from cogvideox.pretrained.model_spec import WEIGHT_STEMS
from cogvideox.state_dict.key_rules import to_external
from cogvideox.state_dict.safetensors_io import load_state
from tests import tiny

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

THEIRS = {
    "transformer": diffusers.CogVideoXTransformer3DModel,
    "vae": diffusers.AutoencoderKLCogVideoX,
    "text_encoder": transformers.T5EncoderModel,
}
VARIANTS = [*tiny.TRANSFORMERS, *tiny.IMAGE_TRANSFORMERS]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal names, dtypes and values, except the second name of T5's embedding."""
    a, b = ({name: one[name] for name in one if name != "encoder.embed_tokens.weight"} for one in (a, b))
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def theirs(path: Path, part: str, dtype: torch.dtype):
    return THEIRS[part].from_pretrained(path / part, torch_dtype=dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_survive_a_round_trip_through_diffusers(tmp_path: Path, variant: str) -> None:
    bundle = tiny.model(variant)
    here = model_folder.save(bundle, tmp_path / "here")
    for part in WEIGHT_STEMS:
        network = getattr(bundle, part)
        own = to_external(network.state_dict(), diffusers_keymap(network.config))
        model = theirs(here, part, torch.float32)
        assert same(model.state_dict(), own)
        model.to(torch.bfloat16).save_pretrained(tmp_path / "there" / part, max_shard_size="40KB")
    plan = plan_conversion(tmp_path / "there", base=here)
    loaded = model_folder.load(plan.write_folder(tmp_path / "back"), dtype=torch.bfloat16)
    assert len(list((tmp_path / "there/transformer").glob("*.safetensors"))) > 1
    for part in WEIGHT_STEMS:
        network = getattr(bundle, part).to(torch.bfloat16)
        state = getattr(loaded, part).state_dict()
        assert same(state, network.state_dict())
        assert same(load_state(tmp_path / "back" / part), to_external(state, diffusers_keymap(network.config)))


def test_converted_single_file_is_a_state_dict_of_diffusers(tmp_path: Path) -> None:
    """With the names and shapes of diffusers and no prefixes, as programs that read single files expect."""
    here = tiny.write(tmp_path / "here", "5b")
    file = plan_conversion(here, dtype=torch.float16).write_file(tmp_path / "x.safetensors")
    assert same(load_state(file), theirs(here, "transformer", torch.float16).state_dict())
