"""Write `docs/settings.md`: all settings of `cogvideox train`, from the config dataclasses.

The description of a setting is the comment behind its field, or its entry under "Attributes" in the docstring.

    python tools/settings_reference.py            # write the page
    python tools/settings_reference.py --check    # exit with status 1 if the page is not current
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cogvideox.training.captioner.config import CaptionerTraining, SummarizerTraining
from cogvideox.training.config import ToyboxTraining, VAETraining
from cogvideox.training.diffusion.config import DiffusionTraining
from cogvideox.training.recipes import RECIPES
from cogvideox.training.text_encoder.config import TextEncoderTraining

PAGE = Path(__file__).parents[1] / "docs/settings.md"
CONFIGS = (DiffusionTraining, VAETraining, ToyboxTraining, TextEncoderTraining, SummarizerTraining, CaptionerTraining)
HEAD = """# Settings

All settings of `cogvideox train`, by dotted name. `cogvideox train NAME --dry-run` prints their values in a recipe;
`optim.lr=1e-4` on the command line, or `optim: {lr: 1e-4}` in a file (`--config`), changes one ([train](train.md)).
A setting without a default is set by every recipe. Settings of networks have the names of diffusers' configs.
`tools/settings_reference.py` generates this page from the config classes.

Names in other trainers: *gradient accumulation* is explained in
[Batch size](train.md#batch-size-and-gradient-accumulation); *learning rate* is `optim.lr`, *max train steps*
`run.num_steps`, *mixed precision* `run.precision`, *gradient checkpointing* `checkpointing`, *max grad norm*
`optim.grad_clip`, *lr scheduler* `optim.schedule`, *checkpointing steps* `run.save_interval`, *dataloader workers*
`run.workers`, *network dim* `lora.rank`, *caption dropout* `text_dropout`, *report to* `run.trackers`.
"""


def main(arguments: list[str]) -> None:
    """Write or check the page."""
    page = reference()
    if "--check" not in arguments:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page:
        raise SystemExit(f"{PAGE} is not current: run python tools/settings_reference.py")


def reference() -> str:
    """Return the page."""
    parts, written = [HEAD], dict[type, str]()
    for config in CONFIGS:
        recipes = ", ".join(f"`{name}`" for name, recipe in RECIPES.items() if type(recipe()) is config)
        parts.append(
            f"\n## {config.__name__}\n\n{_summary(config)} Recipes: {recipes}.\n\n{_table(config, '', written)}"
        )
        for prefix, group in _groups(config, ""):
            if group not in written:
                written[group] = f"{config.__name__}, {prefix}"
                parts.append(
                    f"\n### {config.__name__}: {prefix}\n\n{_summary(group)}\n\n{_table(group, prefix, written)}"
                )
    return "\n".join(parts)


def _groups(config: type, prefix: str) -> Iterator[tuple[str, type]]:
    """Yield the dotted name and the class of each group of settings, depth first."""
    types = get_type_hints(config)
    for field in _settings(config):
        for group in _dataclasses(types[field.name]):
            name = f"{prefix}{field.name}"
            yield name, group
            yield from _groups(group, f"{name}.")


def _settings(config: type) -> list[Field[Any]]:
    return [field for field in fields(config) if field.init]


def _table(config: type, prefix: str, written: dict[type, str]) -> str:
    types, descriptions, dotted = get_type_hints(config), _descriptions(config), f"{prefix}." if prefix else ""
    lines = ["| setting | values | default | |", "| --- | --- | --- | --- |"]
    for field in _settings(config):
        description = descriptions.get(field.name, "")
        for group in _dataclasses(types[field.name]):
            description += f" (group {written[group]})" if group in written else f" (group {group.__name__})"
        cells = (f"`{dotted}{field.name}`", _type(types[field.name]), _default(field), description.strip())
        lines.append(f"| {' | '.join(cell.replace('|', ', ') for cell in cells)} |")
    return "\n".join(lines) + "\n"


@cache
def _descriptions(config: type) -> dict[str, str]:
    """Return the description of each field, including those of base classes."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not is_dataclass(cls):
            continue
        found |= _attributes(inspect.getdoc(cls) or "")
        source = inspect.getsource(cls)
        comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for node, following in zip(definition.body, [*definition.body[1:], None]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                if node.end_lineno in comments:
                    found[name] = comments[node.end_lineno]
                elif isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    found[name] = str(following.value.value)
    return {name: _cell(text) for name, text in found.items()}


def _attributes(docstring: str) -> dict[str, str]:
    """Return the entries under "Attributes"; `height, width: ...` describes both."""
    _, _, section = docstring.partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    entries = re.split(r"\n(?=    \w)", "\n" + section)
    pairs = (entry.strip().partition(":") for entry in entries if ":" in entry)
    return {name.strip(): text for names, _, text in pairs for name in names.split(",")}


def _summary(config: type) -> str:
    return _cell((inspect.getdoc(config) or "").partition("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split())


def _dataclasses(kind: Any) -> list[type]:
    """Return the dataclasses in a type, such as those of an optional or a tuple."""
    if is_dataclass(kind):
        return [kind]  # type: ignore[list-item]
    return [group for argument in get_args(kind) for group in _dataclasses(argument)]


def _type(kind: Any) -> str:
    names = {
        bool: "true, false",
        int: "integer",
        float: "number",
        str: "string",
        Path: "path",
        NoneType: "none",
        Any: "",
    }
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(filter(None, map(_type, arguments)))
    if origin is tuple:
        return f"list of {_type(arguments[0])}" if arguments[1:] == (...,) else f"{len(arguments)} values"
    return names.get(kind, "group" if is_dataclass(kind) else "mapping")


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return ""
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if is_dataclass(value):
        return "its defaults"
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`" if len(str(value)) < 60 else "as listed there"
    return f"`{value}`"


if __name__ == "__main__":
    main(sys.argv[1:])
