"""Back-ends of each stage by name. To add one, implement the protocol of its stage and register the class here."""

from collections.abc import Callable
from typing import Any

from cogvideox.curation.captions.back_ends.captioner import VideoCaptionerBackEnd
from cogvideox.curation.captions.back_ends.models import ModelCaptioner, ModelFrameCaptioner
from cogvideox.curation.captions.back_ends.prompts import DIRECT, FRAME, SHORT, SUMMARY, Prompt
from cogvideox.curation.captions.back_ends.summarizers import ModelSummarizer, RulesSummarizer
from cogvideox.curation.captions.back_ends.tags import TagsCaptioner, TagsFrameCaptioner
from cogvideox.curation.captions.back_ends.toybox import ToyboxCaptioner, ToyboxFrameCaptioner
from cogvideox.curation.captions.config import StageConfig
from cogvideox.curation.captions.facts import Measurer
from cogvideox.llm.client import Client

Factory = Callable[[StageConfig, Client | None, Measurer], Any]


def _model(kind: Callable[..., Any], prompt: Prompt, num_frames: int = 8) -> Factory:
    def build(config: StageConfig, client: Client | None, measurer: Measurer) -> Any:
        assert client is not None
        return kind(
            client,
            config.prompt or prompt,
            config.decoding,
            config.max_words,
            config.longest_side,
            config.num_frames or num_frames,
            config.hints,
        )

    return build


def _captioner(config: StageConfig, client: Client | None, measurer: Measurer) -> VideoCaptionerBackEnd:
    assert config.path is not None
    return VideoCaptionerBackEnd(config.path, config.batch_size, config.processes)


SHORT_CAPTIONERS: dict[str, Factory] = {
    "model": _model(ModelCaptioner, SHORT),
    "tags": lambda config, client, measurer: TagsCaptioner(measurer),
    "toybox": lambda config, client, measurer: ToyboxCaptioner(),
    "captioner": _captioner,
}
FRAME_CAPTIONERS: dict[str, Factory] = {
    "model": _model(ModelFrameCaptioner, FRAME),
    "tags": lambda config, client, measurer: TagsFrameCaptioner(measurer),
    "toybox": lambda config, client, measurer: ToyboxFrameCaptioner(),
}
SUMMARIZERS: dict[str, Factory] = {
    "model": _model(ModelSummarizer, SUMMARY),
    "rules": lambda config, client, measurer: RulesSummarizer(config.max_words),
}
DIRECT_CAPTIONERS: dict[str, Factory] = {
    "model": _model(ModelCaptioner, DIRECT, num_frames=24),
    "captioner": _captioner,
}

BACK_ENDS: dict[str, dict[str, Factory]] = {
    "short": SHORT_CAPTIONERS,
    "frames": FRAME_CAPTIONERS,
    "summary": SUMMARIZERS,
    "direct": DIRECT_CAPTIONERS,
}
"""Back-end factories by stage and name."""
