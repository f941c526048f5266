"""`cogvideox train NAME [key=value ...]`: run a training recipe, or the settings of a file."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cogvideox import config
from cogvideox.cli.common.arguments import Parser, nearest
from cogvideox.errors import UserError
from cogvideox.parallel.environment import rank, world_size

if TYPE_CHECKING:  # recipes import numpy, which `--help` does not need
    from cogvideox.pretrained.model_spec import ModelSpec
    from cogvideox.pretrained.offload.hardware import Hardware
    from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
    from cogvideox.training.config import ToyboxTraining, VAETraining
    from cogvideox.training.diffusion.config import DiffusionTraining
    from cogvideox.training.resources.estimate import ResourceEstimate
    from cogvideox.training.text_encoder.config import TextEncoderTraining

    Settings = (
        VAETraining | TextEncoderTraining | ToyboxTraining | DiffusionTraining | SummarizerTraining | CaptionerTraining
    )

UNFINISHED = 75
"""Exit status of a run that saved a checkpoint and stopped before its last step: EX_TEMPFAIL of sysexits.h."""
DOES_NOT_FIT = 1
"""Exit status of `--dry-run` if the run does not fit in the memory of this machine."""


def run(arguments: list[str]) -> None:
    """Parse the arguments and train. Exits with status 75 if the run stopped before its last step."""
    options = parser().parse(arguments, lambda flag: _suggest_setting(flag, arguments))
    if options.list:
        print(list_recipes())
        return
    if options.max_seconds is not None and not options.max_seconds >= 0:
        raise UserError(f"--max-seconds {options.max_seconds:g} must be at least 0")
    if options.config is not None and "=" in (options.recipe or ""):
        options.overrides.insert(0, options.recipe)
        options.recipe = None
    if options.recipe is None and options.config is None:
        from cogvideox.training.recipes import RECIPES

        raise UserError(f"missing the name of a recipe; available: {', '.join(RECIPES)}")
    finished = train(
        options.recipe,
        parse_overrides(options.overrides),
        config_file=options.config,
        data=options.data,
        policy=options.policy,
        out=options.out,
        resume=options.resume,
        max_seconds=options.max_seconds,
        dry_run=options.dry_run,
    )
    if not finished:
        raise SystemExit(UNFINISHED)


def train(
    recipe: str | None,
    overrides: Mapping[str, str] | None = None,
    *,
    config_file: Path | None = None,
    data: Sequence[str] = (),
    policy: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    dry_run: bool = False,
) -> bool:
    """Run a training recipe, with optional overrides of its settings.

    Args:
        recipe: name of the recipe; None if `config_file` has all settings.
        overrides: values by dotted name, such as `{"optim.lr": "3e-4"}`.
        config_file: file with settings, such as the `settings.yaml` of a run, which `overrides` change.
        data: training data that replaces the recipe's: folders of clips, or latent stores.
        policy: file with the policy that selects clips, instead of the recipe's; for training on encoded clips.
        out: the run folder; defaults to `runs/RECIPE`, or `runs/` and the name of the file.
        resume: resume from the newest checkpoint, if there is one.
        max_seconds: time limit, before which the run saves a checkpoint and stops.
        dry_run: print the settings and the estimated resources without training.

    Returns:
        Whether the run is complete.

    Raises:
        UserError: unknown recipe or setting; invalid value; or as raised by the trainer.
        SystemExit: with `dry_run`, the run does not fit in the memory of this machine (status 1).
    """
    from cogvideox.training.diffusion.config import DiffusionTraining
    from cogvideox.training.precision import with_precision

    settings = with_data(resolve_settings(recipe, overrides or {}, config_file), data)
    if policy is not None:
        settings = with_policy(settings, policy)
    first = rank() == 0
    if dry_run:
        if first:
            _dry_run(with_precision(settings))
        return True
    if out is None:
        out = _default_folder(recipe, config_file)
    settings = with_precision(settings, out, resume=resume)
    if first and isinstance(settings, DiffusionTraining):
        print("\n".join(resource_summary(settings)), file=sys.stderr, flush=True)
    result = _trainer(settings).train(settings, out, resume=resume, max_seconds=max_seconds)
    if result is None:
        if first:
            print(f"the run in {out} is saved but not finished; continue it with --resume", file=sys.stderr)
        return False
    if first:
        print(f"trained: {result}")
    return True


def _suggest_setting(flag: str, arguments: Sequence[str]) -> str | None:
    from cogvideox.training.config_file import setting_of_flag
    from cogvideox.training.recipes import RECIPES

    recipe = next((argument for argument in arguments if argument in RECIPES), "lora")
    setting = setting_of_flag(recipe, flag)
    return setting and f"{setting}=VALUE"


def _default_folder(recipe: str | None, config_file: Path | None) -> Path:
    """Return the folder of a run without `--out`.

    Raises:
        UserError: the settings are those of another run, in whose folder they are.
    """
    if recipe is not None:
        return Path("runs") / recipe
    assert config_file is not None
    if config_file.name == "settings.yaml":
        raise UserError(f"missing --out FOLDER: {config_file} is the file of another run; pass a folder for this one")
    return Path("runs") / config_file.stem


def _dry_run(settings: "Settings") -> None:
    """Print the settings, the estimated resources, the unusable clips, and whether the run fits on this machine.

    Raises:
        SystemExit: it does not fit.
    """
    from cogvideox.training.diffusion.config import DiffusionTraining
    from cogvideox.training.resources.fit import check_fit, suggest_changes

    spec = None
    if isinstance(settings, DiffusionTraining):
        from cogvideox.pretrained.model_spec import read_spec

        with suppress(UserError):  # without the model, its values are not known, and clips cannot be checked
            spec = read_spec(settings.model)
        if spec is not None:
            settings = settings.resolved(spec.settings)
    print(yaml.safe_dump(config.to_dict(settings), sort_keys=False), end="")
    resources, machine, num_ranks = _estimate(settings)
    print(_as_comments(_format_estimate(settings, resources, machine, num_ranks)), flush=True)
    if isinstance(settings, DiffusionTraining) and spec is not None and (lines := _data_summary(settings, spec)):
        print(_as_comments(lines))
    if resources is None or machine is None:
        return
    verdict = check_fit(resources, machine)
    if verdict.fits:
        print("# fits on this machine")
        return
    print(f"# does not fit here: {verdict.reason}")
    changes: list[str] = []
    if isinstance(settings, DiffusionTraining) and num_ranks == 1:
        changes += suggest_changes(settings, machine)
    if changes:
        print(_as_comments(["each of these is enough to fit:", *(f"  {change}" for change in changes)]))
    raise SystemExit(DOES_NOT_FIT)


def _as_comments(lines: Sequence[str]) -> str:
    return "\n".join(f"# {line}" for block in lines for line in block.splitlines())


def _trainer(settings: "Settings") -> Any:
    """Import the trainer for a config."""
    from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
    from cogvideox.training.config import ToyboxTraining, VAETraining
    from cogvideox.training.text_encoder.config import TextEncoderTraining

    if isinstance(settings, VAETraining):
        from cogvideox.training.vae import trainer
    elif isinstance(settings, TextEncoderTraining):
        from cogvideox.training.text_encoder import trainer
    elif isinstance(settings, ToyboxTraining):
        from cogvideox.training.toybox import trainer
    elif isinstance(settings, SummarizerTraining):
        from cogvideox.training.captioner import summarizer_trainer as trainer
    elif isinstance(settings, CaptionerTraining):
        from cogvideox.training.captioner import captioner_trainer as trainer
    else:
        from cogvideox.training.diffusion import trainer
    return trainer


def resolve_settings(recipe: str | None, overrides: Mapping[str, str], config_file: Path | None = None) -> "Settings":
    """Return the config of a recipe or of a file with overrides applied.

    Raises:
        UserError: as for `train`.
    """
    from cogvideox.training.config_file import check_synonyms, load_settings
    from cogvideox.training.recipes import RECIPES

    if recipe is not None and recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}{nearest(recipe, RECIPES)}; available: {', '.join(RECIPES)}")
    if config_file is not None:
        settings = load_settings(config_file, recipe)
    else:
        assert recipe is not None
        settings = RECIPES[recipe]()
    check_synonyms(settings, overrides)
    return config.override(settings, dict(overrides))


def with_data(settings: "Settings", data: Sequence[str]) -> "Settings":
    """Return the config with its training data replaced.

    Raises:
        UserError: the recipe renders its own clips, or supports only one folder.
    """
    from cogvideox.dataset.mixture import DataSource
    from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
    from cogvideox.training.config import ToyboxTraining
    from cogvideox.training.diffusion.config import DiffusionTraining
    from cogvideox.training.text_encoder.config import TextEncoderTraining

    if not data:
        return settings
    if isinstance(settings, DiffusionTraining):
        sources = tuple(DataSource(path) for path in data)
        return replace(settings, data=sources, toybox=(), toybox_validation=None)
    if isinstance(settings, CaptionerTraining):  # rendered scenes have facts, captioned clips have not
        return replace(settings, data=tuple(data), pretraining_steps=0, fact_weight=0.0)
    if isinstance(settings, SummarizerTraining):
        return replace(settings, data=tuple(data))
    if isinstance(settings, ToyboxTraining | TextEncoderTraining):
        raise UserError("this recipe renders its own clips: remove --data, or use toybox-sft")
    if len(data) > 1:
        raise UserError(f"VAE training supports one --data folder, got {len(data)}")
    return replace(settings, data=data[0])


def with_policy(settings: "Settings", file: Path) -> "Settings":
    """Return the config with the filter policy of a file.

    Raises:
        UserError: the file is not a policy, or the recipe does not train on encoded clips.
    """
    from cogvideox.filter_policy.policy import Policy
    from cogvideox.training.diffusion.config import DiffusionTraining

    if not isinstance(settings, DiffusionTraining):
        raise UserError("--policy selects encoded clips, which this recipe does not train on: remove it")
    return replace(settings, policy=config.load(Policy, file))


def list_recipes() -> str:
    """Format all recipes by purpose, with the first line of their docstrings."""
    from cogvideox.training.recipes import GROUPS, RECIPES

    width = max(map(len, RECIPES))
    paragraphs = []
    for purpose, recipes in GROUPS.items():
        lines = [f"  {name:<{width}}  {(getdoc(recipe) or '').splitlines()[0]}" for name, recipe in recipes.items()]
        paragraphs.append("\n".join([f"{purpose}:", *lines]))
    return "\n\n".join(paragraphs)


def resource_summary(settings: "Settings") -> list[str]:
    """Return lines with the estimated steps, parameters, memory and time of a run."""
    return _format_estimate(settings, *_estimate(settings))


def _format_estimate(
    settings: "Settings", resources: "ResourceEstimate | None", machine: "Hardware | None", num_ranks: int
) -> list[str]:
    from cogvideox.training.resources.estimate import format_estimate

    return format_estimate(resources, settings.run.num_steps, machine, num_ranks)


def _estimate(settings: "Settings") -> "tuple[ResourceEstimate | None, Hardware | None, int]":
    """Return the estimated resources of a run, this machine (None without the device), and the number of processes.

    Raises:
        UserError: the settings do not support this number of processes, or need a package that is missing.
    """
    from cogvideox.parallel.mesh import choose_process_device
    from cogvideox.pretrained.offload.hardware import detect_hardware
    from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
    from cogvideox.training.diffusion.config import DiffusionTraining
    from cogvideox.training.diffusion.trainer import check_processes
    from cogvideox.training.resources.estimate import estimate

    try:
        machine = detect_hardware(choose_process_device(settings.run.device), settings.run.precision)
    except UserError:  # the device is not available on this machine
        machine = None
    num_ranks = max(world_size(), getattr(settings, "sequence", 1))
    if isinstance(settings, CaptionerTraining | SummarizerTraining):
        from cogvideox.training.captioner.resource_estimate import estimate_captioning

        return estimate_captioning(settings), machine, num_ranks
    if isinstance(settings, DiffusionTraining):
        check_processes(settings, num_ranks)
    return estimate(settings, machine, num_ranks), machine, num_ranks


def _data_summary(settings: "DiffusionTraining", spec: "ModelSpec") -> list[str]:
    """Return a summary of the training data: clips and unusable files of each folder.

    Raises:
        UserError: the settings do not match the data; see `check_data`.
    """
    from cogvideox.dataset.ingest.report import format_rejects, format_summary
    from cogvideox.training.diffusion.data_checks import check_data, plan_folders

    folders = plan_folders(settings, spec)
    lines = []
    for path, (folder, plan) in folders.items():
        lines.append(f"{path}: {format_summary(folder, plan.clips, plan.windows, plan.settings.target)}")
        if plan.rejects:
            lines.append(format_rejects(plan.rejects))
    check_data(settings, spec, {path: plan for path, (_, plan) in folders.items()})
    return lines


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "train",
        "NAME [KEY=VALUE ...]",
        "Train a VAE, a transformer or a LoRA with a recipe. Change settings by dotted name, such as optim.lr=3e-4.",
    )
    p.add_argument("recipe", nargs="?", metavar="NAME", help="recipe to run; see --list")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a setting; --dry-run prints all of them")
    p.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings of a YAML file: the settings.yaml of a run, or some settings that change the recipe NAME",
    )
    p.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PATH",
        help="folder of captioned videos or latent store; repeatable",
    )
    p.add_argument("--policy", type=Path, metavar="FILE", help="filter policy of the clips; see `cogvideox select`")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/NAME)")
    p.add_argument("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    limit = "time limit, before which the run saves a checkpoint and stops with exit status 75"
    p.add_argument("--max-seconds", type=float, metavar="S", help=limit)
    p.add_argument("--list", action="store_true", help="list the recipes and exit")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, estimated resources, unusable clips, and whether the run fits here (exit status 0 or 1)",
    )
    return p


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Parse overrides such as `optim.lr=3e-4` to values by dotted name.

    Raises:
        UserError: an override is not KEY=VALUE, or a key is set twice.
    """
    changes: dict[str, str] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name:
            raise UserError(f"{override!r} is not KEY=VALUE; change settings as in optim.lr=3e-4")
        if changes.setdefault(name, value) != value:
            raise UserError(f"{name} is set twice, to {changes[name]} and {value}: remove one of them")
    return changes
