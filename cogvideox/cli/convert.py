"""`cogvideox convert SOURCE TARGET`: convert weights to a diffusers folder or a single safetensors file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cogvideox.cli.common.arguments import Parser
from cogvideox.cli.common.messages import print_note
from cogvideox.errors import UserError
from cogvideox.formatting import format_bytes, pluralize
from cogvideox.pretrained.detect_variant import Variant
from cogvideox.pretrained.model_spec import WEIGHT_STEMS

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
UNSUPPORTED_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".gguf", ".json")
"""Weight formats that cannot be written. A target folder with such a suffix is probably a mistake."""
MODEL_OPTIONS = ("base", "variant", "part", "max_shard_gb")
"""Options that do not apply to a LoRA."""
DEFAULT_SHARD_GB = 5.0


def run(arguments: list[str]) -> None:
    """Check names, shapes and free disk space, then convert."""
    options = parser().parse(arguments)
    if options.source is None or options.target is None:
        raise UserError("convert needs two arguments, SOURCE and TARGET; see `cogvideox convert --help`")
    target: Path = options.target
    to_file = target.suffix.lower() == ".safetensors"
    if target.suffix.lower() in UNSUPPORTED_SUFFIXES:
        raise UserError(
            f"cannot write {target}: use a name that ends in .safetensors for a single file, or a folder name"
        )
    if options.part is not None and not to_file:
        raise UserError(
            "--part chooses the network for a single file, and a folder contains all networks: remove --part"
        )
    if options.max_shard_gb is not None and to_file:
        raise UserError("--max-shard-gb applies to folders, and a single file is never split: remove --max-shard-gb")
    shard_gb = DEFAULT_SHARD_GB if options.max_shard_gb is None else options.max_shard_gb
    if not 0 < shard_gb < float("inf"):
        raise UserError(f"--max-shard-gb {shard_gb:g} must be a number above 0; the default is {DEFAULT_SHARD_GB:g}")

    import torch  # takes a second, so imported after the arguments have been checked

    from cogvideox.cli.common.writable import check_writable
    from cogvideox.pretrained.conversion.convert import plan_conversion
    from cogvideox.pretrained.conversion.detect import detect_checkpoint

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    start = time.perf_counter()
    checkpoint = detect_checkpoint(options.source, options.variant)
    if checkpoint.format == "LoRA":
        model_options = [name for name in MODEL_OPTIONS if getattr(options, name) is not None]
        _convert_lora(checkpoint.path, target, dtype, model_options)
        return
    plan = plan_conversion(checkpoint, base=options.base, variant=options.variant, dtype=dtype)
    for note in plan.notes:
        print_note(note)
    names = [plan.choose(options.part)] if to_file else list(plan.components)
    check_writable(target, sum(plan.components[name].num_bytes for name in names))
    if to_file:
        plan.write_file(target, options.part)
    else:
        plan.write_folder(target, max_shard_bytes=round(shard_gb * 1e9))
        if plan.missing:
            missing = ", ".join(plan.missing)
            print_note(f"{target} is not a complete model (missing {missing}); --base MODEL adds components of a model")
    for name in names:
        part = plan.components[name]
        print(f"{name}: {part.num_parameters:,} parameters, {format_bytes(part.num_bytes)}, from {part.source.where}")
    print(f"{target}: written in {time.perf_counter() - start:.1f} s")


def _convert_lora(path: Path, target: Path, dtype: "torch.dtype | None", model_options: list[str]) -> None:
    from cogvideox.cli.common.writable import check_writable
    from cogvideox.pretrained.conversion.convert import convert_lora

    if model_options:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in model_options)
        raise UserError(f"{path} is a LoRA, and {flags} applies only to models: remove it")
    if target.suffix != ".safetensors":
        raise UserError(f"{path} is a LoRA, which is written as a single file: TARGET must end in .safetensors")
    check_writable(target, 2 * path.stat().st_size if dtype is not None else path.stat().st_size)
    lora = convert_lora(path, target, dtype)
    if not lora.alpha_known:
        print_note(
            f"{path} does not store its alpha, so alpha = rank is assumed, as in other programs; if it was trained "
            f"with a different alpha, for example by the official trainer, use {target} with a strength of alpha / rank"
        )
    print(f"{target}: a LoRA of {pluralize(list(lora.layers), 'layer')}, with diffusers' names and alpha = rank")


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "convert",
        "SOURCE TARGET",
        "Convert weights. SOURCE is a diffusers folder, a SAT checkpoint, a single file (.safetensors, .pt, .bin), a "
        "LoRA, a shipped model or a name on the Hugging Face hub; TARGET is a folder or a .safetensors file.",
    )
    p.add_argument(
        "source", nargs="?", metavar="SOURCE", help="weights to convert; `cogvideox inspect` identifies them"
    )
    p.add_argument(
        "target", nargs="?", type=Path, metavar="TARGET", help="output folder or file; an existing model is replaced"
    )
    p.add_argument("--dtype", choices=DTYPES, help="dtype of the written weights (default: unchanged)")
    p.add_argument("--base", metavar="MODEL", help="model that provides components missing in SOURCE")
    p.add_argument(
        "--variant",
        choices=get_args(Variant),
        help="official model with the architecture of SOURCE, if it cannot be inferred from the tensors",
    )
    p.add_argument(
        "--part",
        choices=tuple(WEIGHT_STEMS),
        help="network to write to a single file (default: the transformer, if SOURCE has one)",
    )
    p.add_argument(
        "--max-shard-gb", type=float, metavar="GB", help=f"split larger weights (default: {DEFAULT_SHARD_GB:g})"
    )
    return p
