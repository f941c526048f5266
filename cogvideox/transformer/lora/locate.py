"""Find the LoRA file in a folder."""

from pathlib import Path

from cogvideox.errors import UserError

_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
)


def find_lora_file(folder: Path) -> Path | None:
    """Return the file in a folder that has a standard name of LoRA files; None if there is none."""
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def resolve_lora_file(path: str | Path) -> Path:
    """Return the path of a file; for a folder, the file with a standard name or else the only `.safetensors` file.

    Raises:
        UserError: the folder has several such files, or none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    named_file = find_lora_file(path)
    if named_file is not None:
        return named_file
    files = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    if len(files) == 1:
        return files[0]
    if not files:
        raise UserError(f"the folder {path} has no .safetensors file: pass the path of the LoRA file")
    choice = ", ".join(file.name for file in files[:4])
    raise UserError(f"the folder {path} has several LoRA files: pass one of {choice}")
