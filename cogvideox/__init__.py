"""CogVideoX in one readable package: text-to-video diffusion models, generation and training.

Public names are imported on first use, so that `import cogvideox` is fast:

- `CogVideoX`: a loaded model (`CogVideoX.from_pretrained(...).generate(...)`);
- `Video`: frames, frame rate and metadata of a video; `save` writes a file;
- `Cancelled`: exception to raise in `on_step` to cancel a generation; contains the finished videos;
- `UserError`: invalid input or settings, with a one-sentence message;
- `presets`: transformer configurations of the five official models, by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cogvideox.version import __version__

if TYPE_CHECKING:
    from cogvideox.errors import UserError
    from cogvideox.generation.pipeline import Cancelled, CogVideoX
    from cogvideox.records import Video
    from cogvideox.transformer.presets import PRESETS as presets

__all__ = ["Cancelled", "CogVideoX", "UserError", "Video", "__version__", "presets"]

_LOCATIONS = {
    "Cancelled": ("cogvideox.generation.progress", "Cancelled"),
    "CogVideoX": ("cogvideox.generation.pipeline", "CogVideoX"),
    "UserError": ("cogvideox.errors", "UserError"),
    "Video": ("cogvideox.records", "Video"),
    "presets": ("cogvideox.transformer.presets", "PRESETS"),
}


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'cogvideox' has no attribute {name!r}")
    module, attribute = _LOCATIONS[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
