"""Prediction of the facts of a scene from vision tokens, to pretrain the vision encoder.

The token of the grid cell where a toy is in the middle of the clip predicts the toy's facts; all other tokens predict
that there is no toy. The mean token predicts the facts of the scene.

Axes: `b` clips, `n` vision tokens, `d` width, `p` toys of all clips.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.toybox.scenes.grammar import FACTS, GRAMMARS, MOTIONS, TOY_FACTS, Scene, Toy


def middle(toy: Toy, seconds: float) -> tuple[float, float]:
    """Return the position of a toy in the middle of a clip, in scene units."""
    dx, dy = MOTIONS.get(toy.motion, (0.0, 0.0))
    return toy.x + dx * toy.speed * seconds / 2, toy.y + dy * toy.speed * seconds / 2


def sorted_scene(scene: Scene) -> Scene:
    """Return the scene with its toys from left to right in the middle of the clip."""
    return replace(scene, toys=tuple(sorted(scene.toys, key=lambda toy: middle(toy, scene.seconds))))


class FactHead(nn.Module):
    """Linear classifiers of the facts of toys, for each token, and of the scene, for the mean token."""

    def __init__(self, width: int, grammar: str) -> None:
        super().__init__()
        options = {name: getattr(GRAMMARS[grammar], f"{name}s") for name in FACTS[grammar]}
        self.toy_words = {name: options[name] for name in TOY_FACTS}
        self.scene_words = {name: words for name, words in options.items() if name not in TOY_FACTS}
        self.presence = nn.Linear(width, 1)
        self.toy = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in self.toy_words.items()})
        self.scene = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in self.scene_words.items()})

    def forward(self, tokens: Float[Tensor, "b n d"], scenes: Sequence[Scene], cells: int) -> Float[Tensor, ""]:
        """Compute the mean of the losses of presence, of each fact of toys, and of each fact of scenes.

        Args:
            tokens: tokens of clips without padding.
            cells: number of grid cells of a frame; tokens of other groups of frames are averaged.
        """
        x = tokens.unflatten(1, (-1, cells)).mean(1)
        rows = [i for i, scene in enumerate(scenes) for _ in scene.toys]
        columns = [cell for scene in scenes for cell in _cells(scene, cells)]
        present = torch.zeros(x.shape[:2], device=x.device)
        present[rows, columns] = 1.0
        logits = self.presence(x)[..., 0]
        losses = [F.binary_cross_entropy_with_logits(logits, present, pos_weight=torch.tensor(4.0, device=x.device))]
        toys, mean = x[rows, columns], x.mean(1)
        for name, words in self.toy_words.items():
            losses.append(F.cross_entropy(self.toy[name](toys), _targets(scenes, name, words, x.device)))
        for name, words in self.scene_words.items():
            facts = [scene.facts.get(name, words[0]) for scene in scenes]
            target = torch.tensor([words.index(fact) for fact in facts], device=x.device)
            losses.append(F.cross_entropy(self.scene[name](mean), target))
        return torch.stack(losses).mean()


def _cells(scene: Scene, cells: int) -> list[int]:
    """Return the grid cell of each toy in the middle of the clip."""
    side = round(cells**0.5)
    positions = (middle(toy, scene.seconds) for toy in scene.toys)
    row_column = [[min(side - 1, max(0, int((value + 0.5) * side))) for value in (y, x)] for x, y in positions]
    return [row * side + column for row, column in row_column]


def _targets(scenes: Sequence[Scene], name: str, words: Sequence[str], device: torch.device) -> Int[Tensor, " p"]:
    return torch.tensor([words.index(getattr(toy, name)) for scene in scenes for toy in scene.toys], device=device)
