"""Which file a LoRA is in. Imports no torch, so that a command can look before it loads anything."""

from pathlib import Path

from cogvideox.errors import UserError

_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
)


def lora_file(path: str | Path) -> Path:
    """The file itself, or in a folder the one that trainers write there, or its only `.safetensors`.

    Raises:
        UserError: there are several, or none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    usual = [path / name for name in _NAMES if (path / name).is_file()]
    found = usual[:1] or sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    choice = f"give one of {', '.join(file.name for file in found[:4])}" if found else "it has no .safetensors file"
    raise UserError(f"which LoRA in the folder {path} is meant is unclear: {choice}")
