"""`cogvideox convert SOURCE TARGET`: weights in any form into a diffusers folder or a single safetensors file."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cogvideox.cli.arguments import Parser
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes, pluralize
from cogvideox.pretrained.model_settings import Variant
from cogvideox.pretrained.model_spec import WEIGHT_STEMS

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
OTHERS = (".pt", ".pth", ".bin", ".ckpt", ".gguf", ".json")
"""Endings of weights in forms that are not written, which nobody wants for a folder's name."""
OF_MODELS = ("base", "variant", "part", "max_shard_gb")
"""Options that mean nothing for a LoRA."""
SHARD_GB = 5.0


def run(arguments: list[str]) -> None:
    """Reads the arguments, checks names, shapes and the disk, and only then moves weights."""
    options = parser().parse(arguments)
    if options.source is None or options.target is None:
        raise UserError("convert takes two paths, what to convert and where to; see `cogvideox convert --help`")
    target: Path = options.target
    to_file = target.suffix.lower() == ".safetensors"
    if target.suffix.lower() in OTHERS:
        raise UserError(
            f"cannot write {target}: a single file ends in .safetensors, and a folder in no {target.suffix}"
        )
    if options.part is not None and not to_file:
        raise UserError("--part chooses the network of a single file; a folder gets all of them")
    if options.max_shard_gb is not None and to_file:
        raise UserError("--max-shard-gb is for the weights in a folder; a single file is never split")
    shard_gb = SHARD_GB if options.max_shard_gb is None else options.max_shard_gb
    if not 0 < shard_gb < float("inf"):
        raise UserError(f"--max-shard-gb {shard_gb:g} is not a number above 0; the default is {SHARD_GB:g}")

    import torch  # it takes a second, so not before the arguments are known to be right

    from cogvideox.cli.writable import check_writable
    from cogvideox.pretrained.conversion.convert import plan_conversion
    from cogvideox.pretrained.conversion.detect import detect_checkpoint

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    start = time.perf_counter()
    spec = detect_checkpoint(options.source, options.variant)
    if spec.format == "LoRA":
        _lora(spec.path, target, dtype, [name for name in OF_MODELS if getattr(options, name) is not None])
        return
    plan = plan_conversion(spec, base=options.base, variant=options.variant, dtype=dtype)
    for note in plan.notes:
        _say(note)
    names = [plan.choose(options.part)] if to_file else list(plan.components)
    check_writable(target, sum(plan.components[name].num_bytes for name in names))
    if to_file:
        plan.write_file(target, options.part)
    else:
        plan.write_folder(target, max_shard_bytes=round(shard_gb * 1e9))
        if plan.missing:
            _say(f"{target} is not a whole model yet: {', '.join(plan.missing)} missing; --base takes them from one")
    for name in names:
        part = plan.components[name]
        print(f"{name}: {part.num_parameters:,} parameters, {format_bytes(part.num_bytes)}, from {part.source.where}")
    print(f"{target}: written in {time.perf_counter() - start:.1f} s")


def _lora(path: Path, target: Path, dtype: "torch.dtype | None", of_models: list[str]) -> None:
    from cogvideox.cli.writable import check_writable
    from cogvideox.pretrained.conversion.convert import convert_lora

    if of_models:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in of_models)
        raise UserError(f"{path} is a LoRA, and not for {flags}: they are for models")
    if target.suffix != ".safetensors":
        raise UserError(f"{path} is a LoRA, which becomes a file: the name of TARGET has to end in .safetensors")
    check_writable(target, 2 * path.stat().st_size if dtype is not None else path.stat().st_size)
    lora = convert_lora(path, target, dtype)
    if not lora.alpha_known:
        _say(
            f"{path} does not tell its alpha, so alpha = rank is taken, as by other programs; if it was trained with "
            f"another, as by the official trainer, use {target} with a strength of alpha / rank"
        )
    print(f"{target}: a LoRA for {pluralize(list(lora.layers), 'layer')}, in the names of diffusers, with alpha = rank")


def parser() -> Parser:
    """The flags of the verb."""
    p = Parser(
        "convert",
        "SOURCE TARGET",
        "Convert weights. SOURCE is a diffusers folder, a SAT checkpoint, a single file (.safetensors, .pt, .bin), a "
        "LoRA, a shipped model or a name on the Hugging Face hub; TARGET a folder or a file that ends in .safetensors.",
    )
    p.add_argument("source", nargs="?", metavar="SOURCE", help="what to convert; `cogvideox inspect` says what it is")
    p.add_argument("target", nargs="?", type=Path, metavar="TARGET", help="where to write; a model there is replaced")
    p.add_argument("--dtype", choices=DTYPES, help="the type of the weights (default: as they are)")
    p.add_argument("--base", metavar="MODEL", help="a model from which comes what SOURCE lacks")
    p.add_argument("--variant", choices=get_args(Variant), help="what it is like, where tensors do not tell")
    p.add_argument(
        "--part",
        choices=tuple(WEIGHT_STEMS),
        help="the network that a single file gets (default: the transformer, if SOURCE has one)",
    )
    p.add_argument("--max-shard-gb", type=float, metavar="GB", help=f"larger weights are split (default: {SHARD_GB:g})")
    return p


def _say(text: str) -> None:
    print(f"cogvideox: note: {text}", file=sys.stderr)
