"""The three lights: where the lamp hangs, what colour it gives, how its shadows fall."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

TOWARDS_CAMERA = torch.tensor([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Lamp:
    """One lamp.

    `direction`: unit vector to the lamp, x to the right, y down, z towards the camera. `tint`: its colour. The floor is
    brightest (`bright`) at `centre` and loses `fall` with the square of the distance. A shadow is an ellipse with
    half axes `shadow` (radii of the toy), moved by `lean` from the toy's foot, that takes `depth` of the light.
    """

    direction: Float[Tensor, "3"]
    tint: tuple[float, float, float]
    bright: float
    fall: float
    centre: tuple[float, float]
    lean: tuple[float, float]
    shadow: tuple[float, float]
    depth: float

    @property
    def half(self) -> Float[Tensor, "3"]:
        """Normal of the brightest highlight."""
        return normalize(self.direction + TOWARDS_CAMERA, dim=0)

    def shine(self, x: Float[Tensor, "*x"], y: Float[Tensor, "*y"]) -> Float[Tensor, "*xy"]:
        """How bright the floor is at places in the frame: a little darker away from the lamp."""
        return self.bright - self.fall * ((x - self.centre[0]) ** 2 + (y - self.centre[1]) ** 2)


LAMPS = {
    "day": Lamp(
        direction=normalize(torch.tensor([-0.50, -0.62, 0.72]), dim=0),
        tint=(1.0, 1.0, 1.0),
        bright=1.035,
        fall=0.075,
        centre=(-0.25, -0.3),
        lean=(0.30, -0.02),
        shadow=(1.42, 0.92),
        depth=0.52,
    ),
    "evening": Lamp(
        direction=normalize(torch.tensor([0.80, -0.40, 0.50]), dim=0),
        tint=(1.0, 0.84, 0.66),
        bright=1.04,
        fall=0.15,
        centre=(0.35, -0.2),
        lean=(-0.62, 0.02),
        shadow=(1.80, 0.80),
        depth=0.55,
    ),
    "night": Lamp(
        direction=normalize(torch.tensor([0.10, -0.80, 0.50]), dim=0),
        tint=(0.50, 0.55, 0.67),
        bright=1.05,
        fall=0.30,
        centre=(0.0, -0.1),
        lean=(-0.05, 0.12),
        shadow=(1.25, 0.95),
        depth=0.50,
    ),
}
