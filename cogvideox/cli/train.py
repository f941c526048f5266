"""`cogvideox train NAME [key=value ...]`: runs a recipe, all of it or as far as the time goes."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cogvideox import config
from cogvideox.cli.arguments import Parser, nearest
from cogvideox.errors import UserError

if TYPE_CHECKING:  # recipes bring numpy, which `--help` has no use for
    from cogvideox.training.config import ToyboxTraining, VAETraining
    from cogvideox.training.diffusion.config import DiffusionTraining

    Settings = VAETraining | ToyboxTraining | DiffusionTraining

UNFINISHED = 75
"""Exit status of a run that was saved before its last step: sysexits' EX_TEMPFAIL, "try again later"."""


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains. Exits with 75 when the run was saved and left before its last step."""
    options = parser().parse(arguments)
    if options.list:
        print(overview())
        return
    if options.max_seconds is not None and not options.max_seconds >= 0:
        raise UserError(f"--max-seconds {options.max_seconds:g} is below the smallest legal value, 0")
    if options.recipe is None:
        from cogvideox.training.recipes import RECIPES

        raise UserError(f"which recipe? There are {', '.join(RECIPES)}")
    finished = train(
        options.recipe,
        split(options.overrides),
        data=options.data,
        out=options.out,
        resume=options.resume,
        max_seconds=options.max_seconds,
        dry_run=options.dry_run,
    )
    if not finished:
        raise SystemExit(UNFINISHED)


def train(
    recipe: str,
    overrides: Mapping[str, str] | None = None,
    *,
    data: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    max_seconds: float | None = None,
    dry_run: bool = False,
) -> bool:
    """Trains a recipe with single settings changed; True when the run is complete.

    `overrides` are values by dotted name, `{"optim.lr": "3e-4"}`; `data` what it learns from, instead of the recipe's.
    The run's folder `out` is `runs/NAME` unless given.
    With `dry_run` the settings are printed and nothing is trained.

    Raises:
        UserError: no such recipe or setting, a value of the wrong type, and what the loops raise.
    """
    from cogvideox.training.diffusion.config import DiffusionTraining

    settings = with_data(resolve(recipe, overrides or {}), data)
    if dry_run:
        print(yaml.safe_dump(config.to_dict(settings), sort_keys=False), end="")
        print("\n".join(f"# {line}" for line in account(settings)))
        return True
    out, first = out or Path("runs") / recipe, os.environ.get("RANK", "0") == "0"
    if first and isinstance(settings, DiffusionTraining):
        print("\n".join(account(settings)), file=sys.stderr, flush=True)
    result = _trainer(settings).train(settings, out, resume=resume, max_seconds=max_seconds)
    if result is None:
        print(f"the run in {out} is saved but not finished: continue it with --resume", file=sys.stderr)
        return False
    if first:
        print(f"what was trained is in {result}")
    return True


def _trainer(settings: "Settings") -> Any:
    """The module that trains with these settings."""
    from cogvideox.training.config import ToyboxTraining, VAETraining

    if isinstance(settings, VAETraining):
        from cogvideox.training.vae import trainer
    elif isinstance(settings, ToyboxTraining):
        from cogvideox.training.toybox import trainer
    else:
        from cogvideox.training.diffusion import trainer
    return trainer


def resolve(recipe: str, overrides: Mapping[str, str]) -> "Settings":
    """The settings of a recipe with some changed. Raises UserError as `train` does."""
    from cogvideox.training.recipes import RECIPES

    if recipe not in RECIPES:
        raise UserError(f"there is no recipe {recipe!r}{nearest(recipe, RECIPES)}; there are {', '.join(RECIPES)}")
    return config.override(RECIPES[recipe](), dict(overrides))


def with_data(settings: "Settings", data: Sequence[str]) -> "Settings":
    """The settings with other data: folders of videos and captions or, for stages, stores of latents too.

    Raises:
        UserError: a recipe that makes its own; several where there can be one.
    """
    from cogvideox.dataset.mixture import DataSource
    from cogvideox.training.config import ToyboxTraining
    from cogvideox.training.diffusion.config import DiffusionTraining

    if not data:
        return settings
    if isinstance(settings, DiffusionTraining):
        return replace(settings, data=tuple(DataSource(path) for path in data))
    if isinstance(settings, ToyboxTraining):
        raise UserError("this recipe renders what it learns from: leave out --data, or take toybox-sft")
    if len(data) > 1:
        raise UserError(f"a VAE learns from one folder, and --data names {len(data)}")
    return replace(settings, data=data[0])


def overview() -> str:
    """The recipes by what they are for, each in a line: its name and what it is."""
    from cogvideox.training.recipes import GROUPS, RECIPES

    width = max(map(len, RECIPES))
    paragraphs = []
    for purpose, recipes in GROUPS.items():
        lines = [f"  {name:<{width}}  {(getdoc(make) or '').splitlines()[0]}" for name, make in recipes.items()]
        paragraphs.append("\n".join([f"{purpose}:", *lines]))
    return "\n\n".join(paragraphs)


def account(settings: "Settings") -> list[str]:
    """What a run will take, in lines: its steps, parameters, memory and time."""
    from cogvideox.device import choose_device
    from cogvideox.pretrained.offload.hardware import detect_hardware
    from cogvideox.training.resource_estimate import estimate, told

    try:
        machine = detect_hardware(choose_device(settings.run.device), settings.run.precision)
    except UserError:  # it is for another machine than this
        machine = None
    num_ranks = max(int(os.environ.get("WORLD_SIZE", "1")), getattr(settings, "sequence", 1))
    found = estimate(settings, machine, num_ranks)
    return told(found, settings.run.num_steps, machine, num_ranks)


def parser() -> Parser:
    p = Parser(
        "train",
        "NAME [KEY=VALUE ...]",
        "Train a VAE or a transformer with a recipe. Settings are changed by their dotted name.",
    )
    p.add_argument("recipe", nargs="?", metavar="NAME", help="a recipe; --list shows them")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a setting, such as optim.lr=3e-4")
    p.add_argument(
        "--data", action="append", default=[], metavar="PATH", help="videos and captions, or a store of them"
    )
    p.add_argument("--out", type=Path, metavar="FOLDER", help="the run's folder (default: runs/NAME)")
    p.add_argument("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    p.add_argument("--max-seconds", type=float, metavar="S", help="save and stop before this time is over (exit 75)")
    p.add_argument("--list", action="store_true", help="show the recipes and stop")
    p.add_argument("--dry-run", action="store_true", help="show the settings and what the run will take, and stop")
    return p


def split(texts: Sequence[str]) -> dict[str, str]:
    """`["optim.lr=3e-4"]` as values by dotted name. Raises UserError for what changes no setting, or one twice."""
    changes: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{text!r} is no setting; settings are changed like optim.lr=3e-4")
        if changes.setdefault(name, value) != value:
            raise UserError(f"{name} is changed twice, to {changes[name]} and to {value}: leave one of them out")
    return changes
