"""CogVideoX in one package that can be read: models, generation and training of text-to-video diffusion.

The public names are imported when they are first used, so that `import cogvideox` is instant:

- `CogVideoX`: a model that is ready to generate (`CogVideoX.from_pretrained(...).generate(...)`);
- `Video`: what it returns, and what can be saved;
- `Cancelled`: what `on_step` raises to end a generation, with the videos that were done;
- `UserError`: what every mistake of a caller raises, with one sentence that says what is wrong;
- `presets`: the transformer's configurations of the five official models, by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cogvideox.version import __version__

if TYPE_CHECKING:
    from cogvideox.errors import UserError
    from cogvideox.generation.pipeline import Cancelled, CogVideoX
    from cogvideox.records import Video
    from cogvideox.transformer.config import PRESETS as presets

__all__ = ["Cancelled", "CogVideoX", "UserError", "Video", "__version__", "presets"]

_HOMES = {
    "Cancelled": ("cogvideox.generation.progress", "Cancelled"),
    "CogVideoX": ("cogvideox.generation.pipeline", "CogVideoX"),
    "UserError": ("cogvideox.errors", "UserError"),
    "Video": ("cogvideox.records", "Video"),
    "presets": ("cogvideox.transformer.config", "PRESETS"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogvideox' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
