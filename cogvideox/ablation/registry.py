"""All ablations by name, in the order of the paper. Imports no torch."""

from collections.abc import Callable

from cogvideox.ablation.arm import Ablation
from cogvideox.ablation.groups import vae
from cogvideox.ablation.groups.attention import attention
from cogvideox.ablation.groups.captions import captions
from cogvideox.ablation.groups.last_stage import last_stage
from cogvideox.ablation.groups.lengths import lengths
from cogvideox.ablation.groups.modulation import modulation
from cogvideox.ablation.groups.positions import positions
from cogvideox.ablation.groups.resolution import resolution
from cogvideox.ablation.groups.schedule import schedule
from cogvideox.ablation.groups.timesteps import timesteps
from cogvideox.errors import UserError

ABLATIONS: dict[str, Callable[[], Ablation]] = {
    "positions": positions,
    "modulation": modulation,
    "attention": attention,
    "timesteps": timesteps,
    "lengths": lengths,
    "resolution": resolution,
    "schedule": schedule,
    "last-stage": last_stage,
    "captions": captions,
    "vae-channels": vae.channels,
    "vae-loss": vae.loss,
    "vae-long": vae.long_clips,
    "vae-padding": vae.padding,
}


def get_ablation(name: str) -> Ablation:
    """Return the ablation `name`.

    Raises:
        UserError: there is no such ablation.
    """
    if name not in ABLATIONS:
        raise UserError(f"unknown ablation {name!r}: choose one of {', '.join(ABLATIONS)}")
    return ABLATIONS[name]()
