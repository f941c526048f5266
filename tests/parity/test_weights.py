"""Weight files are exchanged with diffusers and transformers without loss, in both directions."""

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

REFERENCE_CLASSES = {
    "transformer": diffusers.CogVideoXTransformer3DModel,
    "vae": diffusers.AutoencoderKLCogVideoX,
    "text_encoder": transformers.T5EncoderModel,
}
VARIANTS = [*tiny.TRANSFORMERS, *tiny.IMAGE_TRANSFORMERS]


def equal_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether names, dtypes and values are equal, ignoring the second name of T5's embedding."""
    a, b = ({name: state[name] for name in state if name != "encoder.embed_tokens.weight"} for state in (a, b))
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def load_reference(path: Path, part: str, dtype: torch.dtype):
    return REFERENCE_CLASSES[part].from_pretrained(path / part, torch_dtype=dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_survive_a_round_trip_through_diffusers(tmp_path: Path, variant: str) -> None:
    bundle = tiny.model(variant)
    source = model_folder.save(bundle, tmp_path / "source")
    for part in WEIGHT_STEMS:
        network = getattr(bundle, part)
        expected = to_external(network.state_dict(), diffusers_keymap(network.config))
        model = load_reference(source, part, torch.float32)
        assert equal_tensors(model.state_dict(), expected)
        model.to(torch.bfloat16).save_pretrained(tmp_path / "diffusers" / part, max_shard_size="40KB")
    plan = plan_conversion(tmp_path / "diffusers", base=source)
    loaded = model_folder.load(plan.write_folder(tmp_path / "converted"), dtype=torch.bfloat16)
    assert len(list((tmp_path / "diffusers/transformer").glob("*.safetensors"))) > 1
    for part in WEIGHT_STEMS:
        network = getattr(bundle, part).to(torch.bfloat16)
        state = getattr(loaded, part).state_dict()
        assert equal_tensors(state, network.state_dict())
        assert equal_tensors(
            load_state(tmp_path / "converted" / part), to_external(state, diffusers_keymap(network.config))
        )


def test_converted_single_file_is_a_state_dict_of_diffusers(tmp_path: Path) -> None:
    """It has the names and shapes of diffusers without prefixes, as programs that read single files expect."""
    model = tiny.write(tmp_path / "model", "5b")
    file = plan_conversion(model, dtype=torch.float16).write_file(tmp_path / "x.safetensors")
    assert equal_tensors(load_state(file), load_reference(model, "transformer", torch.float16).state_dict())
