"""`cogvideox plan MODEL [lora|sft] --vram 12GB`: whether a generation or a training run fits, and how long it takes.

Needs neither the weights nor the GPU.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cogvideox import config, geometry
from cogvideox.cli.common.arguments import Parser, add_options, nearest, parse_options
from cogvideox.cli.common.flags import to_flags
from cogvideox.errors import UserError
from cogvideox.formatting import format_duration, format_gib
from cogvideox.generation.request.request import Request
from cogvideox.hardware.gpus import UNKNOWN_GPU, find_gpu, gpu_memory
from cogvideox.options import Option, list_options
from cogvideox.pretrained.offload.hardware import hypothetical_gpu
from cogvideox.pretrained.offload.memory_planner import parse_memory, plan_memory, smallest_plan_fits
from cogvideox.pretrained.offload.transformer_cost import WeightFormat

if TYPE_CHECKING:
    from cogvideox.pretrained.model_spec import ModelSpec
    from cogvideox.pretrained.offload.hardware import Hardware
    from cogvideox.pretrained.offload.plan import MemoryPlan, ModelProfile, Workload
    from cogvideox.training.diffusion.config import DiffusionTraining

DOES_NOT_FIT = 1
"""Exit status if the request does not fit."""

SIZES = ("num_frames", "height", "width")
REQUEST_OPTIONS = (*SIZES, "num_inference_steps", "guidance_scale", "sequential_guidance", "window", "overlap")

TABLE_MODELS = ("2b", "5b", "5b-i2v", "1.5-5b")
TABLE_GPUS = {8: "RTX 4060", 12: "RTX 3060", 16: "RTX 4080", 24: "RTX 4090"}


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options of the command that are not options of a request."""

    model: Annotated[
        str | None,
        Option("2b, 5b, 5b-i2v, 1.5-5b, 1.5-5b-i2v, or a model", "", "MODEL", common=True, flags=("model",)),
    ] = None
    task: Annotated[
        Literal["generate", "lora", "sft"],
        Option(
            "generate (default), or a training recipe: lora, sft", "", "generate|lora|sft", common=True, flags=("task",)
        ),
    ] = "generate"
    vram: Annotated[
        str | None,
        Option("memory of the GPU in GiB, such as 12GB (default: that of --gpu, or of this machine)", "", "SIZE"),
    ] = None
    ram: Annotated[str | None, Option("main memory of the machine (default: 64GB)", "", "SIZE")] = None
    gpu: Annotated[str | None, Option("GPU for the estimated time, such as 'RTX 4090'", "", "NAME")] = None
    weights: Annotated[
        Literal["exact", "int8", "fp8", "nf4"],
        Option("format of the stored weights: fp8 for generation only, nf4 for a LoRA only", ""),
    ] = "exact"


def run(arguments: list[str]) -> None:
    """Print the plan. Exits with status 1 if it does not fit."""
    request = {name: option for name, option in list_options(Request).items() if name in REQUEST_OPTIONS}
    own = list_options(PlanOptions)
    p = Parser(
        "plan",
        "[MODEL [generate|lora|sft]]",
        "Estimate whether a generation or a training run fits on a GPU, and how long it takes, without weights or GPU. "
        "Without MODEL, print a table of the official models. Exit status 0: it fits, 1: it does not fit.",
    )
    add_options(p, own | request, common_only=False)
    values = parse_options(p, own | request, arguments)
    options = PlanOptions(**{name: value for name, value in values.items() if name in own})
    overrides = {name: value for name, value in values.items() if name in request}
    if options.model is None:
        if values:
            raise UserError(f"missing MODEL: {', '.join(_official_models())}, or the path of a model folder")
        print(fit_table())
        return
    model = read_model(options.model)
    machine = choose_hardware(options, *model)
    if options.task == "generate":
        fits = _generate(model, overrides, machine, options)
    else:
        fits = _train(model[0], overrides, machine, options)
    if not fits:
        raise SystemExit(DOES_NOT_FIT)


def read_model(name: str) -> "tuple[ModelSpec, ModelProfile]":
    """Return the spec and the profile of an official model, or of a model folder, whose weights may be missing.

    Raises:
        UserError: there is no such model.
    """
    from cogvideox.pretrained.model_spec import read_spec
    from cogvideox.pretrained.presets import OFFICIAL_MODELS, preset_profile, preset_spec

    preset = name.lower().rpartition("cogvideox")[2].lstrip("-")
    preset = preset.removeprefix("1.0-")
    if preset in OFFICIAL_MODELS and not Path(name).exists():
        spec = preset_spec(preset)
        return spec, preset_profile(spec)
    if not Path(name).exists() and "/" not in name and name not in _shipped():
        raise UserError(
            f"there is no model {name!r}{nearest(name, OFFICIAL_MODELS)}: pass {', '.join(OFFICIAL_MODELS)}, or the "
            "path of a model folder"
        )
    spec = read_spec(name)
    if not any((spec.path / "transformer").glob("*.safetensors*")) and not any(
        (spec.path / "transformer").glob("*.bin*")
    ):
        return spec, preset_profile(spec)
    from cogvideox.pretrained.offload.placement import profile_model

    return spec, profile_model(spec)


def _official_models() -> tuple[str, ...]:
    from cogvideox.pretrained.presets import OFFICIAL_MODELS

    return OFFICIAL_MODELS


def _shipped() -> list[str]:
    from cogvideox.pretrained.model_spec import shipped_models

    return shipped_models()


def choose_hardware(options: PlanOptions, spec: "ModelSpec", profile: "ModelProfile") -> "Hardware":
    """Return the GPU that the options describe, with all of its memory free, or the hardware of this machine.

    Raises:
        UserError: a size is invalid, or the memory of the GPU is unknown.
    """
    if options.vram is None and options.gpu is None:
        if options.ram is not None:
            raise UserError("--ram needs a GPU: pass --vram or --gpu too, or leave --ram out to plan for this machine")
        from cogvideox.device import choose_device
        from cogvideox.generation.workload import default_workload
        from cogvideox.pretrained.offload.cpu_dtype import cpu_dtype
        from cogvideox.pretrained.offload.hardware import detect_hardware

        device = choose_device("auto")
        is_cpu = device.type == "cpu"
        return detect_hardware(device, cpu_dtype(profile, default_workload(spec)) if is_cpu else spec.settings.dtype)
    gibibytes = None if options.vram is None else _parse_size("--vram", options.vram) / 2**30
    if gibibytes is None:
        gibibytes = gpu_memory(str(options.gpu))
    if gibibytes is None:
        gpu = str(options.gpu)
        problem = "is unknown" if find_gpu(gpu) is None else "has several sizes"
        raise UserError(f"the memory of {gpu!r} {problem}: pass it with --vram, such as --vram 24GB")
    ram = 64 if options.ram is None else _parse_size("--ram", options.ram) / 2**30
    name = options.gpu or f"a GPU with {gibibytes:g} GiB"
    return hypothetical_gpu(name, gibibytes, spec.settings.dtype, host_gibibytes=ram)


def _parse_size(flag: str, value: str) -> int:
    try:
        size = parse_memory(value)
    except UserError:
        size = None
    if not isinstance(size, int):
        raise UserError(f"{flag} {value} must be a size such as 12GB or 800MB")
    return size


def plan_generation(
    model: "tuple[ModelSpec, ModelProfile]",
    overrides: dict[str, Any],
    machine: "Hardware",
    weights: WeightFormat = "exact",
) -> "MemoryPlan":
    """Return the plan that `generate` makes for a prompt and, with an image-to-video model, an image.

    Raises:
        UserError: the request is invalid, or does not fit.
    """
    spec, profile = model
    return plan_memory(profile, _workload(spec, overrides), machine, "auto", weights)


def _workload(spec: "ModelSpec", overrides: dict[str, Any]) -> "Workload":
    from cogvideox.generation.request.builder import complete_request
    from cogvideox.generation.request.input_sources import InputSource
    from cogvideox.generation.request.inputs import Inputs
    from cogvideox.generation.workload import workload_of

    image = InputSource(None, "") if spec.transformer.is_image_to_video else None
    return workload_of(complete_request(spec, "a prompt", inputs=Inputs(image_source=image), **overrides), spec)


def _generate(
    model: "tuple[ModelSpec, ModelProfile]", overrides: dict[str, Any], machine: "Hardware", options: PlanOptions
) -> bool:
    """Print the plan of a generation, and return whether it fits."""
    weights = options.weights
    if weights == "nf4":
        raise UserError("--weights nf4 is for a LoRA only: remove it, or use int8")
    workload = _workload(model[0], overrides)
    steps = f"{workload.num_inference_steps} steps"
    print(f"{model[0].name}: {workload.num_frames} frames of {workload.width}x{workload.height}, {steps}")
    try:
        plan = plan_generation(model, overrides, machine, weights)
    except UserError as error:
        print(f"does not fit: {to_flags(str(error))}")
        changes = list(_changes(model, overrides, machine, weights))
        if changes:
            print("each of these is enough to fit:", *changes, sep="\n  ")
        return False
    print(f"{plan}\n{plan.table()}")
    if machine.device_type == "cpu":
        from cogvideox.hardware.cpu_probe import cpu_probe

        print(f"  {'speed':<8}{cpu_probe()}")
    print("fits")
    if machine.rates == UNKNOWN_GPU:
        print("the time assumes a slow GPU; pass --gpu NAME for a better estimate")
    return True


def _changes(
    model: "tuple[ModelSpec, ModelProfile]", overrides: dict[str, Any], machine: "Hardware", stored: WeightFormat
) -> Iterator[str]:
    """Yield changes to a generation, each of which is enough to make it fit."""
    frames = _workload(model[0], overrides).num_frames

    def fits(*, weights: WeightFormat = stored, hardware: "Hardware" = machine, **changed: Any) -> bool:
        try:
            workload = _workload(model[0], overrides | changed)
        except UserError:  # the change cannot be combined with the other options, such as --guidance-scale 1
            return False
        return smallest_plan_fits(model[1], workload, hardware, weights)

    if not overrides.get("sequential_guidance") and fits(sequential_guidance=True):
        yield "--sequential-guidance (the same video, slower)"
    if stored == "exact" and fits(weights="int8"):
        yield "--weights int8 (changes the video)"
    shorter = next(
        (count for count in range(frames - geometry.FRAME_RATIO, 0, -geometry.FRAME_RATIO) if fits(num_frames=count)),
        None,
    )
    if shorter is not None:
        yield f"--num-frames {shorter}"
    for gibibytes in (8, 12, 16, 24, 32, 48, 80):
        larger = hypothetical_gpu("", gibibytes, machine.dtype, host_gibibytes=machine.host_free_bytes / 2**30)
        if larger.free_bytes > machine.free_bytes and fits(hardware=larger):
            yield f"a GPU with {gibibytes} GiB (--vram {gibibytes}GB)"
            break
    more_ram = replace(machine, host_free_bytes=64 * 2**30)
    if machine.device_type == "cuda" and machine.host_free_bytes < more_ram.host_free_bytes and fits(hardware=more_ram):
        yield "64 GiB of main memory (--ram 64GB)"


def training_settings(recipe: str, spec: "ModelSpec", overrides: dict[str, Any]) -> "DiffusionTraining":
    """Return the config of a recipe for clips of the model's size, one clip in each row.

    Raises:
        UserError: a size is not valid, or an option does not apply to training.
    """
    from cogvideox.pretrained.offload.transformer_cost import BatchShape
    from cogvideox.training.diffusion.recipes import FINE_TUNING

    for name in overrides:
        if name not in SIZES:
            raise UserError(f"--{name.replace('_', '-')} applies to generation only: leave it out for {recipe}")
    base, defaults = FINE_TUNING[recipe](), spec.settings
    num_frames, height, width = (overrides.get(name, getattr(defaults, name)) for name in SIZES)
    geometry.check_size(height, width, spec.size_multiple)
    target = replace(base.target, fps=defaults.fps, num_frames=num_frames, height=height, width=width)
    shape = geometry.latent_shape(
        num_frames,
        height,
        width,
        patch_t=spec.transformer.patch_size_t or 1,
        ratio=spec.vae.spatial_compression_ratio,
    )
    tokens = BatchShape(1, *shape, defaults.text_length).tokens(spec.transformer)
    return replace(base, model=spec.name, target=target, row_tokens=-(-tokens // 1000) * 1000)


def _train(spec: "ModelSpec", overrides: dict[str, Any], machine: "Hardware", options: PlanOptions) -> bool:
    """Print the estimate of a training run, and return whether it fits."""
    from cogvideox.device import choose_device
    from cogvideox.pretrained.offload.hardware import detect_hardware
    from cogvideox.training.diffusion.recipes import FINE_TUNING
    from cogvideox.training.resources.estimate import estimate, format_estimate
    from cogvideox.training.resources.fit import check_fit, suggest_changes

    settings = training_settings(options.task, spec, overrides)
    weights = options.weights
    if settings.lora is not None and weights != "fp8":
        settings = replace(settings, lora=replace(settings.lora, base_weights=weights))
    elif weights != "exact":
        supported = "a LoRA trains on exact, int8 or nf4 weights" if settings.lora else "sft trains exact weights"
        raise UserError(f"{supported}: remove --weights {weights}")
    if machine.device_type == "cpu":
        machine = detect_hardware(choose_device("cpu"), settings.run.precision)
    machine = replace(machine, dtype=settings.run.precision)
    resources = estimate(settings, machine)
    assert resources is not None  # the model is known
    base = config.dotted(config.to_dict(FINE_TUNING[options.task]()))
    changed = {
        name: value
        for name, value in config.dotted(config.to_dict(settings)).items()
        if value != base.get(name) and name != "model"
    }
    folder = shlex.quote(str(spec.path)) if spec.path.exists() else "FOLDER"
    command = f"cogvideox train {options.task} --data CLIPS model={folder}"
    print(" ".join([command, *(f"{name}={value}" for name, value in changed.items())]))
    print("\n".join(format_estimate(resources, settings.run.num_steps, machine, 1)), flush=True)
    verdict = check_fit(resources, machine)
    if resources.seconds is None:
        print("the time is unknown; pass --gpu NAME for an estimate")
    if verdict.fits:
        print("fits")
        return True
    print(f"does not fit: {verdict.reason}", flush=True)
    changes = list(suggest_changes(settings, machine))
    if changes:
        print("each of these is enough to fit:", *changes, sep="\n  ")
    else:
        print("no single change is enough; more memory is needed (--vram, --ram)")
    return False


def fit_table() -> str:
    """Format a Markdown table: generation and LoRA training of the official models on GPUs of 8 to 24 GiB."""
    from cogvideox.pretrained.presets import preset_profile, preset_spec

    lines = [
        "| model | task | " + " | ".join(f"{size} GiB ({gpu})" for size, gpu in TABLE_GPUS.items()) + " |",
        "| --- " * (len(TABLE_GPUS) + 2) + "|",
    ]
    for name in TABLE_MODELS:
        spec = preset_spec(name)
        model, settings = (spec, preset_profile(spec)), training_settings("lora", spec, {})
        machines = [hypothetical_gpu(gpu, size) for size, gpu in TABLE_GPUS.items()]
        rows = {
            "generate": [_generation_cell(model, machine) for machine in machines],
            "lora": [_lora_cell(settings, machine) for machine in machines],
        }
        lines += [f"| {name} | {task} | " + " | ".join(cells) + " |" for task, cells in rows.items()]
    return "\n".join(lines)


def _lora_cell(settings: "DiffusionTraining", machine: "Hardware") -> str:
    from cogvideox.training.resources.estimate import estimate
    from cogvideox.training.resources.fit import check_fit
    from cogvideox.transformer.lora.config import BaseWeights

    assert settings.lora is not None
    needed = 0
    for base_weights in get_args(BaseWeights):
        resources = estimate(replace(settings, lora=replace(settings.lora, base_weights=base_weights)), machine)
        assert resources is not None  # the model is known
        if (verdict := check_fit(resources, machine)).fits:
            return "fits" if base_weights == "exact" else f"fits with lora.base_weights={base_weights}"
        needed = verdict.needed
    return f"no: needs {format_gib(needed)}"


def _generation_cell(model: "tuple[ModelSpec, ModelProfile]", machine: "Hardware") -> str:
    try:
        return f"fits, about {format_duration(plan_generation(model, {}, machine).seconds)}"
    except UserError:
        changes = _changes(model, {}, machine, "exact")
        return f"no; fits with {next(changes, 'no change').partition(' (')[0]}"
