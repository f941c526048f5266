"""Which file a LoRA is in. Imports no torch, so that a command can look before it loads anything."""

from pathlib import Path

from cogvideox.errors import UserError

_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
)


def find_lora_file(folder: Path) -> Path | None:
    """The file in a folder that has one of the names that trainers give to a LoRA; None where there is none."""
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def resolve_lora_file(path: str | Path) -> Path:
    """The file itself, or in a folder the one that trainers write there, or its only `.safetensors`.

    Raises:
        UserError: there are several, or none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    usual = find_lora_file(path)
    found = [usual] if usual is not None else sorted(file for file in path.glob("*.safetensors") if file.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"the folder {path} has no .safetensors file: give the file of the LoRA, if it is another")
    choice = ", ".join(file.name for file in found[:4])
    raise UserError(f"which LoRA in the folder {path} is meant is unclear: give one of {choice}")
