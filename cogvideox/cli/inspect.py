"""`cogvideox inspect PATH`: what it is, of which make, how large, and what is wrong with it."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cogvideox.cli.arguments import Parser
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes

if TYPE_CHECKING:
    from cogvideox.pretrained.conversion.detect import Component, DetectedCheckpoint


def run(arguments: list[str]) -> None:
    """Reads the arguments and prints what is found. Values of weights are read only with `--values`."""
    options = parser().parse(arguments)
    if options.path is None:
        raise UserError("inspect takes a path; see `cogvideox inspect --help`")

    from cogvideox.pretrained.conversion.detect import detect_checkpoint

    spec = detect_checkpoint(options.path)
    if spec.format == "LoRA" and options.config:
        raise UserError(f"{spec.path} is a LoRA, without a configuration of its own: leave --config out")
    for line in _lora(spec) if spec.format == "LoRA" else _model(spec, options.config, options.values):
        print(line)


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser(
        "inspect",
        "PATH",
        "Say what a file or folder of weights is: a model, a checkpoint, a single file or a LoRA.",
    )
    p.add_argument("path", nargs="?", metavar="PATH", help="a path, a shipped model or a name on the Hugging Face hub")
    p.add_argument("--config", action="store_true", help="also print the configuration of every part")
    p.add_argument("--values", action="store_true", help="also read every tensor, and look for NaN and infinity")
    return p


def _model(spec: "DetectedCheckpoint", with_config: bool, with_values: bool) -> Iterator[str]:
    from cogvideox.pretrained.model_spec import component_config

    like = f", like {spec.variant}" if spec.variant is not None else ""
    yield f"{spec.path}: {spec.format}{like}"
    problems = [f"belongs to no component: {name}" for name in spec.unknown_tensors]
    for part in spec.components.values():
        yield f"  {part.name:<13} {_size(part)}"
        if part.config is None:
            problems.append(f"the config of the {part.name} is unknown: {part.config_problem}")
            continue
        if with_config:
            yield from (
                f"    {line}" for line in json.dumps(component_config(part.config), indent=2).splitlines()[1:-1]
            )
        misfits = part.mismatches(part.config)
        problems += [f"{part.name}: {misfit}" for misfit in misfits]
        if with_values and not misfits:
            problems += _values(part)
    if spec.folder is not None:
        problems += _rest(spec)
    elif spec.tokenizer is not None:
        yield f"  {'tokenizer':<13} {spec.tokenizer}"
    yield from (f"problem: {problem}" for problem in problems)
    yield f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'} found"


def _size(part: "Component") -> str:
    """`1,693,783,872 parameters, 3.39 GB, float16, names of SAT`."""
    meta = part.state.meta.values()
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in meta})
    num_parameters = sum(tensor.numel() for tensor in meta)
    num_bytes = sum(tensor.nbytes for tensor in meta)
    naming = ", names of SAT" if part.naming == "SAT" else ""
    return f"{num_parameters:,} parameters, {format_bytes(num_bytes)}, {' and '.join(types)}{naming}"


def _values(part: "Component") -> list[str]:
    from cogvideox.pretrained.components import build_network
    from cogvideox.state_dict.strict_load import convert_tensors

    assert part.config is not None
    expected = build_network(part.config).state_dict()
    try:
        rules = part.rules(part.config)
        for _ in convert_tensors(part.state, expected, where=part.where, rules=rules, keep=False):
            pass
    except UserError as error:
        return [str(error)]
    return []


def _rest(spec: "DetectedCheckpoint") -> list[str]:
    """What is wrong with the rest of a diffusers folder: a part that is missing, a file that cannot be honoured."""
    from cogvideox.pretrained.model_spec import INDEX_FILE, WEIGHT_STEMS, read_spec
    from cogvideox.text.tokenizer import Tokenizer

    assert spec.folder is not None
    if not (spec.folder / INDEX_FILE).is_file():
        missing = [name for name in WEIGHT_STEMS if name not in spec.components]
        return [f"not a whole model: there is no {INDEX_FILE}{', no ' if missing else ''}{', no '.join(missing)}"]
    try:
        read_spec(spec.folder)
        Tokenizer.from_folder(spec.folder / "tokenizer")
    except UserError as error:
        return [str(error)]
    return []


def _lora(spec: "DetectedCheckpoint") -> Iterator[str]:
    from cogvideox.transformer.lora.io import read_lora

    lora = read_lora(spec.path)
    ranks = sorted({factors.rank for factors in lora.layers.values()})
    alphas = sorted({factors.alpha for factors in lora.layers.values()})
    kinds = sorted({layer.split(".", 2)[-1] for layer in lora.layers})
    num_parameters = sum(factors.down.numel() + factors.up.numel() for factors in lora.layers.values())
    yield f"{spec.path}: LoRA"
    yield f"  rank          {', '.join(map(str, ranks))}"
    yield f"  alpha         {', '.join(f'{alpha:g}' for alpha in alphas)}{'' if lora.alpha_known else ' (not stated)'}"
    yield f"  layers        {len(lora.layers)}: {', '.join(kinds)}"
    yield f"  parameters    {num_parameters:,}"
    if lora.base_model is not None:
        yield f"  base model    {lora.base_model}"
    if lora.trigger is not None:
        yield f"  trigger       {lora.trigger}"
