"""The three lights of the full grammar: direction, tint, falloff and shadow of each."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

TOWARDS_CAMERA = torch.tensor([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class LightSource:
    """A directional light with a falloff on the floor and elliptical shadows.

    Attributes:
        direction: unit vector towards the light; x to the right, y down, z towards the camera.
        tint: RGB color of the light.
        brightness: maximum brightness of the floor, at `center`.
        falloff: loss of brightness per squared distance from `center`.
        center: brightest position on the floor.
        shadow_offset: center of a shadow relative to the toy's base, in radii of the toy.
        shadow_radii: half axes of a shadow, in radii of the toy.
        shadow_strength: fraction of the light that a shadow removes at its center.
    """

    direction: Float[Tensor, "3"]
    tint: tuple[float, float, float]
    brightness: float
    falloff: float
    center: tuple[float, float]
    shadow_offset: tuple[float, float]
    shadow_radii: tuple[float, float]
    shadow_strength: float

    @property
    def half_vector(self) -> Float[Tensor, "3"]:
        """Unit vector halfway between light and camera (Blinn-Phong): the normal of the strongest highlight."""
        return normalize(self.direction + TOWARDS_CAMERA, dim=0)

    def floor_brightness(self, x: Float[Tensor, "*x"], y: Float[Tensor, "*y"]) -> Float[Tensor, "*xy"]:
        """Compute the floor's brightness at positions in the frame."""
        return self.brightness - self.falloff * ((x - self.center[0]) ** 2 + (y - self.center[1]) ** 2)


LIGHTS = {
    "day": LightSource(
        direction=normalize(torch.tensor([-0.50, -0.62, 0.72]), dim=0),
        tint=(1.0, 1.0, 1.0),
        brightness=1.035,
        falloff=0.075,
        center=(-0.25, -0.3),
        shadow_offset=(0.30, -0.02),
        shadow_radii=(1.42, 0.92),
        shadow_strength=0.52,
    ),
    "evening": LightSource(
        direction=normalize(torch.tensor([0.80, -0.40, 0.50]), dim=0),
        tint=(1.0, 0.84, 0.66),
        brightness=1.04,
        falloff=0.15,
        center=(0.35, -0.2),
        shadow_offset=(-0.62, 0.02),
        shadow_radii=(1.80, 0.80),
        shadow_strength=0.55,
    ),
    "night": LightSource(
        direction=normalize(torch.tensor([0.10, -0.80, 0.50]), dim=0),
        tint=(0.50, 0.55, 0.67),
        brightness=1.05,
        falloff=0.30,
        center=(0.0, -0.1),
        shadow_offset=(-0.05, 0.12),
        shadow_radii=(1.25, 0.95),
        shadow_strength=0.50,
    ),
}
