"""Rewriting of prompts by a language model into the style of the captions that the model was trained on (Appendix F).

`cogvideox caption` writes the style beside its captions: their length, and examples. A short prompt is far from the
long captions of training, so it gives worse videos.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from cogvideox import config
from cogvideox.llm.chat import ChatRequest, Frame, Message, Sampling
from cogvideox.llm.client import Client

PROMPT = ("generation/enhance", 1)


@dataclass(frozen=True)
class CaptionStyle:
    """The style of captions in training.

    Attributes:
        words: usual number of words: the 10th, 50th and 90th percentile.
        examples: a few captions.
    """

    words: tuple[int, int, int] = (60, 80, 100)
    examples: tuple[str, ...] = field(default=())

    @classmethod
    def load(cls, path: str | Path) -> "CaptionStyle":
        """Read `caption-style.yaml`.

        Raises:
            UserError: the file cannot be read.
        """
        data = config.read_data(path)
        if isinstance(data, dict):
            data.pop("short_fraction", None)  # in files of earlier versions
        return config.from_dict(cls, data, where=str(path))


def enhance_prompt(prompt: str, style: CaptionStyle, client: Client, image: Frame | None = None) -> str:
    """Return a prompt with the same content in the style of the training captions.

    The prompt is returned unchanged if it has at least as many words as the 10th percentile of the captions, if the
    call fails, or if the answer is empty or much longer than the captions.

    Args:
        image: first frame, for image-to-video; the client's model then needs vision.

    Raises:
        UserError: the model cannot be reached; see `Client.ask`.
    """
    low, middle, high = style.words
    if len(prompt.split()) >= low:
        return prompt
    text = (
        f"Rewrite the request for a video as a caption of about {middle} English words, in one paragraph and in "
        "chronological order. Keep everything it says, and add fitting details of subjects, place, light, camera and "
        "motion. Do not write 'the video' or 'the scene shows'. Answer with the caption only."
    )
    text += "".join(f"\nExample of a caption: {example}" for example in style.examples)
    parts = [text + f"\nRequest: {prompt}", *([image] if image is not None else [])]
    sampling = Sampling(max_tokens=4 * high)
    answer = client.ask(ChatRequest((Message("user", tuple(parts)),), *PROMPT, sampling=sampling))
    rewritten = re.sub(r"^caption:\s*", "", " ".join(answer.text.split()), flags=re.IGNORECASE).strip('" ')
    usable = answer.error is None and answer.finish_reason != "length" and 0 < len(rewritten.split()) <= 2 * high
    return rewritten if usable else prompt
