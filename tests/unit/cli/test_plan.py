"""`cogvideox plan` says what `generate --plan` says, without weights, and whether a request fits."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cogvideox import config
from cogvideox.cli.plan import training_settings
from cogvideox.pretrained.model_spec import component_config, model_index, read_spec
from cogvideox.pretrained.offload.hardware import UNKNOWN_CPU, Hardware, hypothetical_gpu
from cogvideox.pretrained.offload.plan import MEMORY_MARGIN
from cogvideox.pretrained.presets import OFFICIAL_MODELS, preset_profile, preset_spec
from cogvideox.training.recipes import RECIPES
from cogvideox.training.resources.estimate import ResourceEstimate, clip_tokens, estimate
from cogvideox.training.resources.fit import check_fit, suggest_changes
from tests import tiny


def without_weights(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def memory_lines(output: str) -> list[str]:
    """Return the phases and their memory, without times, which are measured anew."""
    return [line[:18] for line in output.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("variant", ["2b", "5b", "1.5-5b", "5b-i2v"])
@pytest.mark.parametrize("size", [(), ("--num-frames", 17, "--guidance-scale", 1)])
def test_a_folder_without_weights_has_the_plan_of_generate(run, tmp_path, workdir, variant, size):
    model = tiny.write(tmp_path / "model", variant)
    image = ("--image", "x.png") if variant.endswith("i2v") else ()
    if image:
        Image.new("RGB", (48, 32)).save(workdir / "x.png")
    expected = run("generate", "a red ball", "--model", model, "--plan", *size, *image)
    assert expected.status == 0, expected
    result = run("plan", without_weights(model, tmp_path / "configs"), *size)
    assert result.status == 0 and result.out.splitlines()[-1] == "fits", result
    assert memory_lines(result.out) == memory_lines(expected.out) != []
    assert run("plan", model, *size).out.splitlines()[0].split(": ")[1] == result.out.splitlines()[0].split(": ")[1]


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_a_preset_equals_the_folder_of_the_model(tmp_path, name):
    spec, folder = preset_spec(name), tmp_path / name
    files = {
        "model_index.json": model_index(spec.transformer, spec.vae, spec.settings.sampler),
        "scheduler/scheduler_config.json": spec.schedule.to_diffusers(spec.settings.sampler),
        "transformer/config.json": component_config(spec.transformer),
        "vae/config.json": component_config(spec.vae),
        "text_encoder/config.json": component_config(spec.text_encoder),
    }
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    actual = read_spec(folder)
    assert replace(actual, name=name, path=spec.path) == spec
    assert preset_profile(spec).itemsizes == {"transformer": 2, "vae": 2, "text_encoder": 2}


def test_exit_status_and_changes(run):
    assert run("plan", "5b", "--vram", "12GB").status == 0
    result = run("plan", "1.5-5b", "--vram", "8GB")
    assert result.status == 1 and "does not fit: 1.5-5b needs" in result.out
    options = [line.split(" (")[0].split() for line in result.out.splitlines() if line.startswith("  --")]
    assert ["--sequential-guidance"] in options and any(words[0] == "--num-frames" for words in options)
    for words in options:
        assert run("plan", "1.5-5b", "--vram", "8GB", *words).status == 0, words
    assert "--sequential-guidance" in result.out and "sequential_guidance" not in result.out


@pytest.mark.parametrize("options", [["--guidance-scale", 1], ["--window", 49, "--num-frames", 89, "--overlap", 8]])
def test_impossible_changes_are_not_suggested(run, options):
    result = run("plan", "5b", "--vram", "1GB", *options)
    assert result.status == 1 and result.err == "" and "does not fit" in result.out


def test_less_memory_is_never_better(run):
    statuses = [run("plan", "1.5-5b", "--vram", f"{size}GB").status for size in (8, 12, 80)]
    assert statuses == sorted(statuses, reverse=True) and set(statuses) == {0, 1}


def test_the_memory_of_known_gpus(run):
    assert "RTX 4090" in run("plan", "2b", "--gpu", "RTX 4090").out
    assert run("plan", "2b", "--gpu", "A100 80GB").status == 0
    for gpu, problem in (("A100", "has several sizes"), ("Voodoo", "is unknown")):
        assert f"the memory of '{gpu}' {problem}: pass it with --vram" in run("plan", "2b", "--gpu", gpu).err


def test_training(run):
    result = run("plan", "2b", "lora", "--vram", "8GB", "--num-frames", 1, "--height", 64, "--width", 64)
    assert (
        result.status == 0 and "train lora --data CLIPS model=FOLDER" in result.out and "target.height=64" in result.out
    )
    result = run("plan", "2b", "sft", "--vram", "8GB", "--num-frames", 1, "--height", 64, "--width", 64)
    assert result.status == 1 and "does not fit: the run needs" in result.out


def test_a_run_fits_with_each_suggested_change():
    settings = replace(RECIPES["toybox-sft"](), checkpointing="none")
    resources = estimate(settings, None)
    machine = hypothetical_gpu("x", 1.0)
    small = replace(machine, free_bytes=int(resources.total / 0.94) - 1)
    assert check_fit(resources, replace(small, free_bytes=small.free_bytes + 2)).fits
    assert not check_fit(resources, small).fits
    changes = list(suggest_changes(settings, small))
    assert "checkpointing=full" in changes and any(change.startswith("target.num_frames=5") for change in changes)
    assert "2 such devices (torchrun --nproc-per-node 2) with run.batch_size=2" in changes  # one row for each
    even = replace(settings, run=replace(settings.run, batch_size=4))
    assert "2 such devices (torchrun --nproc-per-node 2)" in list(suggest_changes(even, small))
    assert list(suggest_changes(settings, replace(small, free_bytes=1))) == []


def test_quantized_weights_of_a_lora_can_be_planned_for_a_gpu_without_a_name(run):
    result = run("plan", "5b", "lora", "--vram", "12GB", "--weights", "nf4")
    assert result.status == 0 and "lora.base_weights=nf4" in result.out
    assert "the time is unknown; pass --gpu NAME" in result.out


def test_shorter_clips_on_quantized_weights_are_suggested_if_neither_is_enough():
    settings, machine = training_settings("lora", preset_spec("5b-i2v"), {}), hypothetical_gpu("RTX 3060", 12)
    (change,) = (change for change in suggest_changes(settings, machine) if "base_weights" in change)
    weights, shape = change.split(" (changes the result slightly) with ")
    assert shape.startswith("target.num_frames=")
    changes = dict(part.split("=") for part in (weights, *shape.split()))
    assert check_fit(estimate(config.override(settings, changes), machine), machine).fits
    for name in changes.keys() - {"row_tokens"}:
        partial = {key: value for key, value in changes.items() if key != name}
        assert not check_fit(estimate(config.override(settings, partial), machine), machine).fits


def test_all_reasons_are_named(run):
    result = run("plan", "5b", "lora", "--vram", "12GB", "--ram", "16GB")
    assert result.status == 1 and "; loading the model needs 22.1 GiB of main memory" in result.out
    assert "no single change is enough" in result.out


@pytest.mark.parametrize("name", ["5b", "1.5-5b"])
def test_rows_of_suggested_clips_are_long_enough(name):
    settings = training_settings("lora", preset_spec(name), {})
    resources, machine = estimate(settings, None), hypothetical_gpu("x", 1000.0)
    for fraction in (0.2, 0.5):  # of the memory of the activations
        free = (resources.total - (1 - fraction) * resources.memory["activations"]) / MEMORY_MARGIN
        changes = suggest_changes(settings, replace(machine, free_bytes=int(free)))
        (change,) = (change for change in changes if change.startswith("target.num_frames="))
        changed = config.override(settings, dict(part.split("=") for part in change.split()))
        assert changed.row_tokens >= clip_tokens(changed), change


def test_a_model_must_fit_in_main_memory_while_it_is_loaded():
    resources = ResourceEstimate("", 10**9, 10**6, {"weights": 10**9}, None)
    for free_bytes, fits in ((int(4e9), False), (int(4.5e9), True)):  # 4 bytes per parameter, and a margin
        cpu = Hardware("cpu", "CPU", free_bytes, free_bytes, "bfloat16", UNKNOWN_CPU)
        assert check_fit(resources, cpu).fits == fits
    verdict = check_fit(resources, hypothetical_gpu("x", 8, host_gibibytes=3.5))
    assert not verdict.fits and "main memory" in verdict.reason
    assert check_fit(resources, hypothetical_gpu("x", 8, host_gibibytes=4.5)).fits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["5bb", "--vram", "8GB"], "there is no model '5bb' (did you mean 5b?)"),
        (["5b", "--vram", "much"], "--vram much must be a size such as 12GB"),
        (["5b", "--vram", "auto"], "--vram auto must be a size"),
        (["5b", "--ram", "8GB"], "--ram needs a GPU"),
        (["--vram", "8GB"], "missing MODEL"),
        (["5b", "dance"], "generate, lora, sft"),
        (["5b", "--vram", "8GB", "--num-frames", "50"], "--num-frames 50"),
        (["5b", "sft", "--vram", "8GB", "--weights", "int8"], "sft trains exact weights: remove --weights int8"),
        (["5b", "lora", "--vram", "8GB", "--weights", "fp8"], "a LoRA trains on exact, int8 or nf4 weights"),
        (["5b", "--vram", "8GB", "--weights", "nf4"], "--weights nf4 is for a LoRA only"),
        (["5b", "lora", "--vram", "8GB", "--num-inference-steps", "9"], "applies to generation only"),
        (["5b", "lora", "--vram", "8GB", "--height", "50"], "--height 50"),
        (["5b-i2v", "--vram", "24GB", "--height", "320", "--width", "480"], "one size only"),
    ],
)
def test_errors(run, arguments, message):
    result = run("plan", *arguments)
    assert result.status == 2 and message in result.err and result.err.count("\n") == 1, result
