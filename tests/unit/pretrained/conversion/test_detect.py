"""Formats and official variants are detected from names and shapes alone; anything else is an error."""

import json
import shutil

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.pretrained import model_spec
from cogvideox.pretrained.components import build_network, diffusers_keymap
from cogvideox.pretrained.conversion import infer_config
from cogvideox.pretrained.conversion.detect import detect_checkpoint
from cogvideox.state_dict.key_rules import to_external
from cogvideox.state_dict.safetensors_io import load_state, save_state
from cogvideox.text.config import T5Config
from cogvideox.transformer.checkpoint_keys import sat_keymap
from cogvideox.transformer.presets import PRESETS
from cogvideox.vae import checkpoint_keys as vae_keys
from cogvideox.vae.config import PRESETS as VAES
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny", "5b")


def shapes(config, rules=None):
    return to_external(build_network(config).state_dict(), rules if rules is not None else diffusers_keymap(config))


def meta_tensor(*shape):
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize("variant", PRESETS)
def test_configs_of_official_transformers_are_inferred_from_shapes(variant):
    config = PRESETS[variant]()
    assert infer_config.transformer_config(shapes(config), "diffusers") == config

    external = shapes(config, sat_keymap(config))
    if variant == "2b":
        external["mixins.pos_embed.pos_embedding"] = meta_tensor(1, 226 + 17550, 1920)
    elif config.patch_size_t is None:
        external["mixins.pos_embed.freqs_cos"] = meta_tensor(17550, 64)
    assert infer_config.classify_component(external) == ("transformer", "SAT")
    assert infer_config.transformer_config(external, "SAT") == config


@pytest.mark.parametrize("variant", ["2b", "5b", "5b-i2v"])
def test_main_branch_files_with_patches_of_one_frame_are_version_1_0(variant):
    """SAT's main branch has a linear patch embedding for any patch size, and no table of rotary positions."""
    config = PRESETS[variant]()
    external = shapes(config, sat_keymap(config))
    external["mixins.patch_embed.proj.weight"] = meta_tensor(config.width, config.in_channels * 4)
    if variant != "5b":
        external["mixins.pos_embed.pos_embedding"] = meta_tensor(1, 226 + 17550, config.width)
    assert infer_config.transformer_config(external, "SAT") == config
    unused = infer_config.unused_tensors(external, "transformer", "SAT")
    assert unused == (["mixins.pos_embed.pos_embedding"] if variant == "2b" else [])


@pytest.mark.parametrize("naming", ["diffusers", "SAT"])
def test_configs_of_official_vaes_and_text_encoders_are_inferred_from_shapes(naming):
    for variant, preset in VAES.items():
        config = preset()
        rules = vae_keys.sat_keymap(config) if naming == "SAT" else None
        assert infer_config.classify_component(shapes(config, rules)) == ("vae", naming)
        assert infer_config.vae_config(shapes(config, rules), naming, variant) == config
    assert infer_config.text_config(shapes(T5Config())) == T5Config()
    with pytest.raises(infer_config.ConfigUnknown, match="scaling factor"):
        infer_config.vae_config(shapes(VAES["5b"]()), "diffusers")


def test_ambiguous_config_raises_config_unknown():
    meta = shapes(tiny.TRANSFORMERS["5b"])
    with pytest.raises(infer_config.ConfigUnknown, match="sinusoidal"):
        infer_config.transformer_config(meta, "diffusers")
    assert infer_config.transformer_config(meta, "diffusers", "5b").use_rotary_positional_embeddings
    assert not infer_config.transformer_config(meta, "diffusers", "2b").use_rotary_positional_embeddings
    with pytest.raises(infer_config.ConfigUnknown, match="learned positions"):
        infer_config.transformer_config(shapes(tiny.IMAGE_TRANSFORMERS["5b-i2v"]), "diffusers")
    del meta["patch_embed.text_proj.weight"]
    with pytest.raises(
        infer_config.ConfigUnknown, match=r"patch_embed\.text_proj\.weight, whose shape is needed, is missing"
    ):
        infer_config.transformer_config(meta, "diffusers")


def test_detect_folders(model, tmp_path):
    spec = detect_checkpoint(model)
    assert (spec.format, spec.variant, spec.folder) == ("diffusers folder", "5b", model)
    assert list(spec.components) == ["transformer", "vae", "text_encoder"]
    assert spec.tokenizer == model / "tokenizer"
    assert not any(part.mismatches(part.config) for part in spec.components.values())

    vae_only = detect_checkpoint(model / "vae")
    assert (vae_only.format, list(vae_only.components), vae_only.variant) == ("diffusers folder", ["vae"], None)
    assert list(detect_checkpoint(model / "text_encoder").components) == ["text_encoder"]
    shutil.copytree(model / "transformer", tmp_path / "some/transformer")
    assert list(detect_checkpoint(tmp_path / "some").components) == ["transformer"]
    assert detect_checkpoint("toybox").variant == "2b"


def test_detect_single_files(model, tmp_path):
    weights = model / "transformer/diffusion_pytorch_model.safetensors"
    spec = detect_checkpoint(weights)
    assert (spec.format, list(spec.components)) == ("single file", ["transformer"])
    assert "sinusoidal" in spec.components["transformer"].config_problem
    assert detect_checkpoint(weights, "5b").variant == "5b"
    state = {
        f"model.diffusion_model.{name}": torch.ones(1)
        for name in detect_checkpoint(weights).components["transformer"].state
    }
    torch.save(state | {"other.weight": torch.ones(1)}, tmp_path / "x.pt")
    spec = detect_checkpoint(tmp_path)
    assert (list(spec.components), spec.unknown_tensors) == (["transformer"], ("other.weight",))


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "model.diffusion_model.transformer.layers.0.attention.query_key_value.matrix_A.0",
    ],
)
def test_detect_lora(tmp_path, name):
    save_state({name: torch.ones(2, 4)}, tmp_path / "x.safetensors")
    assert detect_checkpoint(tmp_path / "x.safetensors").format == "LoRA"


def test_the_shared_embedding_is_found_under_either_name(model, tmp_path):
    """Files of transformers and full SAT fine-tunes contain both names."""
    path = shutil.copytree(model, tmp_path / "copy")
    state = load_state(path / "text_encoder")
    both_names = state | {"encoder.embed_tokens.weight": state["shared.weight"]}
    one_name = {name: tensor for name, tensor in both_names.items() if name != "shared.weight"}
    file = path / "text_encoder/model.safetensors"
    for tensors in (both_names, one_name):
        torch.save({f"conditioner.embedders.0.transformer.{name}": t for name, t in tensors.items()}, tmp_path / "x.pt")
        save_state(tensors, file)
        for spec in (detect_checkpoint(path), detect_checkpoint(tmp_path / "x.pt")):
            part = spec.components["text_encoder"]
            assert part.config is not None and part.mismatches(part.config) == []
    save_state(both_names | {"shared.weight": state["shared.weight"] + 1}, file)
    with pytest.raises(UserError, match="they differ"):
        detect_checkpoint(path)


def test_an_error_names_an_incomplete_or_split_sat_checkpoint(tmp_path):
    (tmp_path / "latest").write_text("500")
    with pytest.raises(UserError, match=r"incomplete: .*500/mp_rank_00_model_states\.pt is missing"):
        detect_checkpoint(tmp_path)
    (tmp_path / "500").mkdir()
    for rank in range(2):
        torch.save({"module": {"mixins.a": torch.ones(1)}}, tmp_path / f"500/mp_rank_0{rank}_model_states.pt")
    with pytest.raises(UserError, match="split over several GPUs"):
        detect_checkpoint(tmp_path)
    (tmp_path / "500/mp_rank_01_model_states.pt").unlink()
    assert "missing" in detect_checkpoint(tmp_path).components["transformer"].config_problem
    for mode in ("t2v", "i2v"):
        (tmp_path / f"two/transformer_{mode}").mkdir(parents=True)
        (tmp_path / f"two/transformer_{mode}/latest").write_text("1")
    with pytest.raises(UserError, match=r"pass one of .*transformer_i2v, .*transformer_t2v"):
        detect_checkpoint(tmp_path / "two")


def test_invalid_input_raises_one_sentence_error(tmp_path):
    save_state({"conv.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    save_state({"blocks.0.self_attn.q.lora_A.weight": torch.ones(1)}, tmp_path / "wan.safetensors")
    cases = {
        tmp_path / "x.safetensors": r"is not CogVideoX: no network has its 1 tensor \(conv\.weight\)$",
        tmp_path / "wan.safetensors": "; it seems to be a LoRA for Wan",
        tmp_path / "empty": "contains no model",
        tmp_path / "flux": "is not CogVideoX: its config.json is for FluxTransformer2DModel",
        tmp_path / "x.txt": "not a weights file",
        tmp_path / "nothing": "there is no model",
        tmp_path / "two": "contains 2 weights files: pass the path of one",
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux/config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    (tmp_path / "x.txt").write_text("words")
    (tmp_path / "two").mkdir()
    for name in ("a.safetensors", "b.pt"):
        (tmp_path / "two" / name).touch()
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            detect_checkpoint(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cogvideox convert"):
        model_spec.read_spec(tmp_path / "x.safetensors")
