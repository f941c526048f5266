"""The JSON sidecar of a video (`x.json` next to `x.mp4`), from which the video can be generated again.

`Video.save` writes the file; its content is the `Sidecar` in `Video.metadata`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cogvideox import config
from cogvideox.errors import UserError
from cogvideox.generation.request.input_sources import AppliedLoRA
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.pretrained.offload.transformer_cost import WeightFormat

# Values of guidance options without guidance.
_WITHOUT_GUIDANCE: dict[str, Any] = {
    "negative_prompt": "",
    "dynamic_guidance": False,
    "smooth_guidance": False,
    "sequential_guidance": False,
    "guidance_interval": (0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Sidecar(Request):
    """Everything needed to reproduce a video: the request, the model with its LoRAs, the device and the versions."""

    model: str
    device: str
    dtype: str
    cogvideox: str
    torch: str
    loras: tuple[AppliedLoRA, ...] = ()
    weights: WeightFormat = "exact"
    float8: bool = False
    int8_compute: bool = False
    attention: str = "default"
    """The attention kernel, for information only: every generation selects the fastest kernel."""

    def metadata(self) -> dict[str, Any]:
        """Return the JSON values of all fields that differ from their default.

        `config.from_dict(Sidecar, ...)` is the inverse.
        """
        values = config.to_dict(self)
        return {field.name: values[field.name] for field in fields(self) if getattr(self, field.name) != field.default}


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        UserError: the file cannot be read or is not a sidecar.
    """
    return config.load(Sidecar, path)


def repeat_with_changes(
    sidecar: Sidecar, request: Mapping[str, Any], load: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadOptions]:
    """Return the options recorded in a sidecar, overridden by the user's options.

    Recorded options that conflict with an option of the user are dropped.

    Args:
        request, load: the user's options, by name, for `Request` and `LoadOptions`.
    """
    recorded = {field.name: getattr(sidecar, field.name) for field in fields(Request)}
    recorded_load = {
        field.name: getattr(sidecar, field.name) for field in fields(LoadOptions) if hasattr(sidecar, field.name)
    }
    if request.get("guidance_scale") == 1:
        recorded |= _WITHOUT_GUIDANCE
    if not request.get("invert", sidecar.invert):
        if request.get("negative_prompt") or request.get("guidance_scale") == 1:
            recorded["null_text"] = None
        elif request.get("null_text"):
            recorded["negative_prompt"] = ""
    for chosen, excluded in (("smooth_guidance", "dynamic_guidance"), ("dynamic_guidance", "smooth_guidance")):
        if request.get(chosen):
            recorded[excluded] = False
    if "window" in request:
        recorded["overlap"] = None
    extends = request.get("extend") or request.get("extend_by")
    if extends or request.get("invert"):
        recorded["strength"] = None
    if request.get("extend_by") or (request.get("extend") and not sidecar.extend):
        recorded["num_frames"] = None  # the recorded value does not include the frames of the video to extend
    if request.get("extend_by"):
        recorded["extend"] = None
    return {**recorded, **request}, LoadOptions(**{**recorded_load, **load})


def is_sidecar_of(path: Path, request: Request, model: Mapping[str, Any]) -> bool:
    """Return whether a file is the sidecar of a video generated for this request.

    Args:
        model: other sidecar fields that must match, such as `model` and `loras`.
    """
    try:
        sidecar = read_sidecar(path)
    except UserError:
        return False
    return all(getattr(sidecar, name) == value for name, value in {**vars(request), **model}.items())
