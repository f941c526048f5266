"""Scorers of five dimensions of VBench, by the plain protocol or that of VBench-Long.

Bugs of the official tools that are not copied, unless `official_bugs` is set:

- human action reads the action from the file's name, so that files with other names silently score 0; here it is that
  of the prompt, and a prompt without one is a failure;
- appearance style averages only the last frame of every video if it runs on several GPUs;
- dynamic degree counts every video of two frames as dynamic, and one of a single frame as static (`rules`).

Not copied at all: VBench-Long encodes every piece again before scoring it, and joins videos whose prompts are equal up
to an underscore.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.plugins import Plugin
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Ratio, VideoFile
from cogvideox.evaluation.vbench import rules
from cogvideox.evaluation.vbench.pieces import PIECE_SECONDS, split

ROLES = {
    "human_action": "action",
    "scene": "scene",
    "multiple_objects": "objects",
    "dynamic_degree": "flow",
    "appearance_style": "style",
}
"""Dimensions, and the role of the model of each."""
_MEANINGS = {
    "human_action": "videos with the action of the prompt",
    "scene": "frames with the scene of the prompt",
    "multiple_objects": "frames with both objects of the prompt",
    "dynamic_degree": "videos that move enough",
    "appearance_style": "similarity of frames and the style of the prompt",
}


@dataclass(frozen=True)
class VBenchDimension:
    """Scorer of one dimension.

    Attributes:
        dimension: key of `ROLES`.
        model: the model that measures it; the scores of variants are not comparable with published ones.
        long: score pieces of two (human action: ten) seconds, and average first over pieces and then over videos;
            otherwise, frames of all videos are pooled.
        official_bugs: see the top of this file.
        responses: file of stored responses, for models behind an endpoint; set by the run.
    """

    dimension: str
    model: Plugin
    long: bool = False
    official_bugs: bool = False
    responses: Path | None = None

    @property
    def name(self) -> str:
        """Name with the model, if it is a variant: "vbench/scene" or "vbench-efficientnet/scene"."""
        return f"vbench{'' if self.model.is_official else '-' + self.model.kind}/{self.dimension}"

    @property
    def uses_endpoint(self) -> bool:
        """Whether calls may cost money."""
        return self.model.is_endpoint

    @property
    def groups(self) -> tuple[str, ...]:
        """The prompts of the dimension."""
        return (self.dimension,)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The score of the dimension."""
        meaning = _MEANINGS[self.dimension]
        if self.long:
            meaning += ", mean over pieces"
        if not self.model.is_official:
            meaning += f"; variant with {self.model.kind}, not comparable"
        return (Metric(self.name, self._statistic(), meaning, "%", per_video="score"),)

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        protocol = "VBench-Long" if self.long else "VBench"
        return {
            "protocol": protocol + (", official bugs reproduced" if self.official_bugs else ""),
            **self.model.settings(),
            "version": 1,
        }

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load the model."""
        model = self.model.open(self.responses)

        def measure(file: VideoFile, item: Item) -> Measurement:
            frames, fps = file.video.frames, file.video.fps
            pieces = split(len(frames), fps, PIECE_SECONDS[self.dimension]) if self.long else [range(len(frames))]
            values = [self._apply(frames[piece.start : piece.stop], fps, item, file.path, model) for piece in pieces]
            return {"score": rules.pooled(values), "pieces": values} if self.long else values[0]

        return measure

    def _apply(self, frames: Any, fps: float, item: Item, path: Path, model: Any) -> dict[str, Any]:
        if self.dimension == "dynamic_degree":
            return rules.dynamic_degree(frames, fps, model, official_bugs=self.official_bugs)
        if self.dimension == "human_action":
            action = rules.action_of_file(path.name) if self.official_bugs else rules.action_of_prompt(item.prompt)
            if action is None:
                raise UserError(f'{item.prompt!r} names no action: prompts have the form "A person is riding a bike"')
            return rules.human_action(frames, action, model, official_bugs=self.official_bugs)
        rule = {"scene": rules.scene, "multiple_objects": rules.multiple_objects}.get(self.dimension)
        return (rule or rules.appearance_style)(frames, rules.auxiliary(item.info), model)

    def _statistic(self) -> Ratio:
        if self.official_bugs and self.dimension == "appearance_style" and not self.long:
            return Ratio("last_frame")
        if self.long or self.dimension in ("human_action", "dynamic_degree"):
            return Ratio("score")
        return Ratio("similarity" if self.dimension == "appearance_style" else "hits", "frames")
