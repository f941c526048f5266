"""Conversion is lossless in both directions, takes missing components from a base model, and reports errors."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder, model_spec
from cogvideox.pretrained.conversion.convert import plan_conversion
from cogvideox.pretrained.conversion.detect import CONFIG_KEY, detect_checkpoint
from cogvideox.pretrained.conversion.infer_config import VARIANTS
from cogvideox.state_dict.key_rules import to_external
from cogvideox.state_dict.safetensors_io import load_state, save_state
from cogvideox.transformer.checkpoint_keys import sat_keymap
from tests import tiny

TINY_VARIANTS = [*tiny.TRANSFORMERS, *tiny.IMAGE_TRANSFORMERS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {variant: tiny.write(root / variant, variant) for variant in TINY_VARIANTS}


def same_tensors(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def states(path):
    return {part: load_state(path / part) for part in model_spec.WEIGHT_STEMS}


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_folder_conversion_is_lossless(models, tmp_path, variant):
    copy = plan_conversion(models[variant]).write_folder(tmp_path / "copy", max_shard_bytes=20_000)
    assert len(list((copy / "transformer").glob("*.safetensors"))) > 1
    unsharded = plan_conversion(copy).write_folder(tmp_path / "unsharded")
    for part, state in states(models[variant]).items():
        assert same_tensors(states(copy)[part], state)
        assert same_tensors(states(unsharded)[part], state)
    for file in sorted(models[variant].rglob("*.json")):
        written = unsharded / file.relative_to(models[variant])
        assert json.loads(written.read_text()) == json.loads(file.read_text())
    assert (unsharded / "tokenizer/spiece.model").read_bytes() == (
        models[variant] / "tokenizer/spiece.model"
    ).read_bytes()
    assert model_spec.read_spec(unsharded).settings == model_spec.read_spec(models[variant]).settings


@pytest.mark.parametrize("variant", TINY_VARIANTS)
def test_single_file_includes_config_and_round_trips(models, tmp_path, variant):
    file = plan_conversion(models[variant]).write_file(tmp_path / "x.safetensors")
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()[CONFIG_KEY])["_class_name"] == "CogVideoXTransformer3DModel"
    spec = detect_checkpoint(file)
    assert (spec.variant, spec.components["transformer"].config) == (variant, tiny.transformer(variant))

    model = plan_conversion(file, base=models[variant]).write_folder(tmp_path / "model")
    assert all(same_tensors(states(model)[part], state) for part, state in states(models[variant]).items())
    assert plan_conversion(models[variant]).write_file(tmp_path / "vae.safetensors", "vae").is_file()
    assert same_tensors(load_state(tmp_path / "vae.safetensors"), states(model)["vae"])
    assert detect_checkpoint(tmp_path / "vae.safetensors").components["vae"].config == tiny.vae_config(variant)
    vae_file = plan_conversion(models[variant] / "vae", base=models["2b"]).write_file(tmp_path / "vae_only.safetensors")
    assert list(detect_checkpoint(vae_file).components) == ["vae"]  # not the base's transformer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_casts_weights(models, tmp_path, dtype):
    model = plan_conversion(models["5b"], dtype=dtype).write_folder(tmp_path / "model")
    for part, state in states(models["5b"]).items():
        assert same_tensors(states(model)[part], {name: tensor.to(dtype) for name, tensor in state.items()})


def test_an_error_names_values_too_large_for_the_dtype(models, tmp_path):
    path = shutil.copytree(models["5b"], tmp_path / "large")
    state = load_state(path / "transformer")
    state["patch_embed.text_proj.bias"] = state["patch_embed.text_proj.bias"] + 1e5
    save_state(state, path / "transformer/diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"float16 \(largest value 65504\): .*\(patch_embed\.text_proj\.bias\)"):
        plan_conversion(path, dtype=torch.float16).write_folder(tmp_path / "model")
    with pytest.raises(UserError, match="do not fit in float16"):
        model_folder.load(path, dtype=torch.float16)
    assert not (tmp_path / "model").exists()
    plan_conversion(path, dtype=torch.bfloat16).write_folder(tmp_path / "model")


def test_fp8_files_are_converted(models, tmp_path):
    """Single files quantized by other programs: matrices in 8 bits, the rest in 16."""
    state = load_state(models["5b"] / "transformer")
    quantized = {n: t.to(torch.float8_e4m3fn if t.ndim > 1 else torch.bfloat16) for n, t in state.items()}
    save_state(quantized, tmp_path / "x.safetensors")
    plan = plan_conversion(tmp_path / "x.safetensors", base=models["5b"], dtype=torch.bfloat16)
    model = plan.write_folder(tmp_path / "model")
    assert same_tensors(states(model)["transformer"], {n: t.bfloat16() for n, t in quantized.items()})
    unchanged = plan_conversion(tmp_path / "x.safetensors", variant="5b").write_file(tmp_path / "y.safetensors")
    assert same_tensors(load_state(unchanged), {name: quantized[name] for name in load_state(unchanged)})


def test_without_a_base_only_the_given_components_are_written(models, tmp_path):
    plan = plan_conversion(models["1.5-5b"] / "transformer")
    assert plan.missing == ["vae", "text_encoder", "tokenizer"]
    path = plan.write_folder(tmp_path / "model")
    assert sorted(entry.name for entry in path.iterdir()) == ["scheduler", "transformer"]
    assert json.loads((path / model_spec.SCHEDULER_FILE).read_text())["_class_name"] == "CogVideoXDPMScheduler"
    plan_conversion(path, base=models["1.5-5b"]).write_folder(
        path
    )  # a single component may be replaced by a complete model
    assert model_spec.read_spec(path).transformer == tiny.TRANSFORMERS["1.5-5b"]


def test_vae_from_base_of_another_variant_is_rescaled(models, tmp_path):
    plan = plan_conversion(models["5b"] / "transformer", base=models["2b"])
    assert plan.notes == ["the base is 2b, the transformer is 5b: the VAE has the scaling factor of 5b"]
    spec = model_spec.read_spec(plan.write_folder(tmp_path / "model"))
    assert spec.vae.scaling_factor == 0.7
    assert spec.schedule.snr_shift_scale == 1.0
    assert spec.settings.sampler == "dpm++"


def test_sat_checkpoint_is_not_overwritten(models, tmp_path):
    (tmp_path / "sat/transformer/1").mkdir(parents=True)
    (tmp_path / "sat/vae").mkdir()
    with pytest.raises(UserError, match="not empty and not a model"):
        plan_conversion(models["5b"]).write_folder(tmp_path / "sat")


def test_model_is_not_overwritten_by_single_component(models, tmp_path):
    path = plan_conversion(models["5b"]).write_folder(tmp_path / "model")
    before = sorted(path.rglob("*"))
    for part in (path / "transformer", models["5b"] / "vae"):
        with pytest.raises(UserError, match=r"to .*/model: (\w|\.|, )* in it would be lost"):
            plan_conversion(part).write_folder(path)
    assert sorted(path.rglob("*")) == before


def test_notes_list_unknown_tensors(models, tmp_path):
    state = {f"model.diffusion_model.{name}": t for name, t in load_state(models["5b"] / "transformer").items()}
    torch.save(state | {"other.a": torch.ones(1), "other.b": torch.ones(1)}, tmp_path / "x.pt")
    assert plan_conversion(tmp_path / "x.pt", variant="5b").notes == [
        "ignored 2 tensors of no component (other.a, other.b)"
    ]


def test_the_error_lists_missing_unexpected_and_misshapen_tensors(models, tmp_path):
    state = to_external(tiny.model("5b").transformer.state_dict(), sat_keymap(tiny.TRANSFORMERS["5b"]))
    del state["time_embed.0.bias"]
    state["transformer.layers.0.attention.dense.weight"] = torch.ones(32, 31)
    state["transformer.layers.1.extra"] = torch.ones(1)
    torch.save(
        {"module": {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}}, tmp_path / "x.pt"
    )
    with pytest.raises(UserError) as caught:
        plan_conversion(tmp_path / "x.pt", base=models["5b"])
    assert str(caught.value) == (
        f"the weights in {tmp_path / 'x.pt'} do not match their config: 1 tensor missing (time_embed.0.bias); "
        "1 unexpected tensor (transformer.layers.1.extra); 1 tensor with the wrong shape "
        "(transformer.layers.0.attention.dense.weight is [32, 31], not [32, 32])"
    )


def test_invalid_input_raises_one_sentence_error(models, tmp_path):
    no_config = tmp_path / "x.safetensors"
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/model_index.json").write_text("{}")
    save_state(load_state(models["5b"] / "transformer"), no_config)
    save_state(
        {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 4)}, tmp_path / "l.safetensors"
    )
    save_state(load_state(models["5b"] / "vae"), tmp_path / "v.safetensors")
    cases = [
        (
            lambda: plan_conversion(no_config),
            "the config of the transformer in .* is unknown: .*model of the same architecture as `base`",
        ),
        (lambda: plan_conversion(tmp_path / "l.safetensors"), "is a LoRA, not a model"),
        (lambda: plan_conversion(no_config, base=tmp_path / "l.safetensors"), "the base .* is a LoRA"),
        (
            lambda: plan_conversion(models["1.5-5b"], variant="2b"),
            r"the variant of .*transformer/.* is 1\.5-5b, not 2b",
        ),
        (
            lambda: plan_conversion(tmp_path / "hollow"),
            "nothing to convert in .*: no transformer, no vae, no text_encoder",
        ),
        (lambda: plan_conversion(no_config, variant="7b"), f"the variants are {', '.join(VARIANTS)}"),
        (lambda: plan_conversion(no_config, variant="5b").write_file(tmp_path / "x.pt"), "must end in .safetensors"),
        (lambda: plan_conversion(no_config, variant="5b").write_file(tmp_path / "y.safetensors", "vae"), "has no vae"),
        (lambda: plan_conversion(tmp_path / "v.safetensors", variant="5b"), "norm groups"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    broken = load_state(models["5b"] / "transformer")
    broken["proj_out.bias"] = broken["proj_out.bias"] * float("nan")
    save_state(broken, no_config)
    with pytest.raises(UserError, match=r"NaN or infinity \(proj_out\.bias\)"):
        plan_conversion(no_config, variant="5b").write_file(tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()
