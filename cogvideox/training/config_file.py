"""Read the settings of a run from a YAML file: that of an earlier run, or a few settings that change a recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.training.recipes import RECIPES

# Names of settings in other trainers, and the last part of our name.
_SYNONYMS = {
    "learning_rate": "lr",
    "max_train_steps": "num_steps",
    "max_steps": "num_steps",
    "steps": "num_steps",
    "num_train_steps": "num_steps",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "mixed_precision": "precision",
    "dtype": "precision",
    "gradient_checkpointing": "checkpointing",
    "max_grad_norm": "grad_clip",
    "lr_scheduler": "schedule",
    "lr_warmup_steps": "warmup_steps",
    "optimizer": "name",
    "checkpointing_steps": "save_interval",
    "validation_steps": "validate_interval",
    "dataloader_num_workers": "workers",
    "network_dim": "rank",
    "network_alpha": "alpha",
    "lora_alpha": "alpha",
    "lora_rank": "rank",
    "resolution": "height",
    "caption_dropout": "text_dropout",
}


def load_settings(file: Path, recipe: str | None) -> Any:
    """Return the settings in a file.

    Args:
        recipe: recipe whose settings the file changes; None: the file has all required settings, such as the
            `settings.yaml` of a run.

    Raises:
        UserError: the file cannot be read, a setting is unknown or invalid, or the file is incomplete and `recipe` is
            None.
    """
    data = config.read_data(file)
    if not isinstance(data, Mapping):
        raise UserError(f"{file} has no settings: write lines such as `optim: {{lr: 1e-4}}`")
    if recipe is not None:
        settings = RECIPES[recipe]()
        check_synonyms(settings, config.dotted(data), where=f"{file}: ")
        return config.from_dict(type(settings), _merge(config.to_dict(settings), data), where=str(file))
    classes = list(dict.fromkeys(type(recipe()) for recipe in RECIPES.values()))
    complete = [cls for cls in classes if _required(cls) <= data.keys() <= {field.name for field in fields(cls)}]
    if not complete:
        best = max(classes, key=lambda cls: len({field.name for field in fields(cls)} & data.keys()))
        unknown = data.keys() - {field.name for field in fields(best)}
        if unknown and _required(best) <= data.keys():
            return config.from_dict(best, data, where=str(file))  # raises the error about the unknown setting
        raise UserError(
            f"{file} has only some of the settings of a run: name the recipe that they change, as in `cogvideox train "
            f"lora --config {file}`"
        )
    return config.from_dict(complete[0], data, where=str(file))


def check_synonyms(settings: Any, names: Iterable[str], where: str = "") -> None:
    """Check names of settings against those of other trainers, such as `optim.learning_rate`.

    Raises:
        UserError: a name is unknown here, and the message names ours.
    """
    known = config.dotted(config.to_dict(settings))
    for name in names:
        matches = _matches(known, name, _SYNONYMS.get(name.rpartition(".")[2]))
        if name not in known and matches:
            raise UserError(f"{where}unknown setting {name} (did you mean {' or '.join(matches[:3])}?)")


def setting_of_flag(recipe: str, flag: str) -> str | None:
    """Return the setting that a flag of another trainer means, such as `optim.lr` for `--learning-rate`."""
    name = flag.lstrip("-").replace("-", "_")
    matches = _matches(config.dotted(config.to_dict(RECIPES[recipe]())), name, _SYNONYMS.get(name, name))
    return matches[0] if matches else None


def _matches(known: Iterable[str], name: str, last: str | None) -> list[str]:
    """Return the settings whose last part is `last`; only those in the group of `name` if there are any."""
    matches = [key for key in known if key.rpartition(".")[2] == last]
    return [key for key in matches if key.rpartition(".")[0] == name.rpartition(".")[0]] or matches


def _required(cls: type) -> set[str]:
    return {field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING}


def _merge(base: Any, changes: Any) -> Any:
    """Return nested plain data with changed values; lists are replaced as a whole."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**base, **{key: _merge(base.get(key), value) for key, value in changes.items()}}
