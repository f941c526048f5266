"""`cogvideox inspect PATH`: identify a checkpoint, print its size and variant, and list problems."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes

if TYPE_CHECKING:
    from cogvideox.pretrained.conversion.detect import Component, DetectedCheckpoint


def run(arguments: list[str]) -> None:
    """Describe a checkpoint. Tensor values are read only with `--values`."""
    options = parser().parse(arguments)
    if options.path is None:
        raise UserError("inspect needs a PATH; see `cogvideox inspect --help`")

    from cogvideox.pretrained.conversion.detect import detect_checkpoint

    checkpoint = detect_checkpoint(options.path)
    is_lora = checkpoint.format == "LoRA"
    if is_lora and options.config:
        raise UserError(f"{checkpoint.path} is a LoRA, which has no config: remove --config")
    for line in _lora_lines(checkpoint) if is_lora else _model_lines(checkpoint, options.config, options.values):
        print(line)


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "inspect",
        "PATH",
        "Identify a file or folder of weights: a model, a checkpoint, a single file or a LoRA. Lists problems.",
    )
    p.add_argument("path", nargs="?", metavar="PATH", help="a path, a shipped model or a name on the Hugging Face hub")
    p.add_argument("--config", action="store_true", help="also print the config of every network")
    p.add_argument("--values", action="store_true", help="also read every tensor and check it for NaN and infinity")
    return p


def _model_lines(checkpoint: "DetectedCheckpoint", with_config: bool, with_values: bool) -> Iterator[str]:
    from cogvideox.pretrained.model_spec import component_config

    variant = f", matches {checkpoint.variant}" if checkpoint.variant is not None else ""
    yield f"{checkpoint.path}: {checkpoint.format}{variant}"
    problems = [f"unexpected tensor: {name}" for name in checkpoint.unknown_tensors]
    for part in checkpoint.components.values():
        yield f"  {part.name:<13} {_size(part)}"
        if part.config is None:
            problems.append(f"the config of the {part.name} is unknown: {part.config_problem}")
            continue
        if with_config:
            yield from (
                f"    {line}" for line in json.dumps(component_config(part.config), indent=2).splitlines()[1:-1]
            )
        mismatches = part.mismatches(part.config)
        problems += [f"{part.name}: {mismatch}" for mismatch in mismatches]
        if with_values and not mismatches:
            problems += _value_problems(part)
    if checkpoint.folder is not None:
        problems += _folder_problems(checkpoint)
    elif checkpoint.tokenizer is not None:
        yield f"  {'tokenizer':<13} {checkpoint.tokenizer}"
    yield from (f"problem: {problem}" for problem in problems)
    yield f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'} found"


def _size(part: "Component") -> str:
    """Format a component's size, such as `1,693,783,872 parameters, 3.39 GB, float16, SAT names`."""
    meta = part.state.meta.values()
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in meta})
    num_parameters = sum(tensor.numel() for tensor in meta)
    num_bytes = sum(tensor.nbytes for tensor in meta)
    naming = ", SAT names" if part.naming == "SAT" else ""
    return f"{num_parameters:,} parameters, {format_bytes(num_bytes)}, {' and '.join(types)}{naming}"


def _value_problems(part: "Component") -> list[str]:
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


def _folder_problems(checkpoint: "DetectedCheckpoint") -> list[str]:
    """List the problems of a diffusers folder other than its networks': missing components, unreadable files."""
    from cogvideox.pretrained.model_spec import INDEX_FILE, WEIGHT_STEMS, read_spec
    from cogvideox.text.tokenizer import Tokenizer

    assert checkpoint.folder is not None
    if not (checkpoint.folder / INDEX_FILE).is_file():
        missing = [name for name in WEIGHT_STEMS if name not in checkpoint.components]
        return [f"not a complete model: missing {', '.join([INDEX_FILE, *missing])}"]
    try:
        read_spec(checkpoint.folder)
        Tokenizer.from_folder(checkpoint.folder / "tokenizer")
    except UserError as error:
        return [str(error)]
    return []


def _lora_lines(checkpoint: "DetectedCheckpoint") -> Iterator[str]:
    from cogvideox.transformer.lora.io import read_lora

    lora = read_lora(checkpoint.path)
    ranks = sorted({factors.rank for factors in lora.layers.values()})
    alphas = sorted({factors.alpha for factors in lora.layers.values()})
    layer_names = sorted({layer.split(".", 2)[-1] for layer in lora.layers})
    num_parameters = sum(factors.down.numel() + factors.up.numel() for factors in lora.layers.values())
    yield f"{checkpoint.path}: LoRA"
    yield f"  rank          {', '.join(map(str, ranks))}"
    note = "" if lora.alpha_known else " (not specified)"
    yield f"  alpha         {', '.join(f'{alpha:g}' for alpha in alphas)}{note}"
    yield f"  layers        {len(lora.layers)}: {', '.join(layer_names)}"
    yield f"  parameters    {num_parameters:,}"
    if lora.base_model is not None:
        yield f"  base model    {lora.base_model}"
    if lora.trigger is not None:
        yield f"  trigger       {lora.trigger}"
