"""`--enhance` of `cogvideox generate`: rewrite short prompts in the style of the training captions (Appendix F)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cogvideox import config
from cogvideox.cli.common.messages import print_note
from cogvideox.cli.generate.options import CommandOptions
from cogvideox.errors import UserError

RESPONSES = "enhanced-prompts.sqlite"
Rewrite = Callable[[str, Any], str]
"""Rewrites a prompt, with the input image or None."""


@contextmanager
def prompt_rewriter(command: CommandOptions) -> Iterator[Rewrite]:
    """Yield the function that rewrites prompts; without `--enhance`, prompts stay as they are.

    With a prompt file, responses are stored in the output folder, so that repeating the command calls no model again.

    Raises:
        UserError: only one of `--enhance` and `--enhance-model` is given, a file cannot be read, or the model cannot be
            opened.
    """
    if command.enhance is None and command.enhance_model is None:
        yield lambda prompt, image: prompt
        return
    if command.enhance is None or command.enhance_model is None:
        raise UserError("--enhance needs --enhance-model, the model that rewrites prompts, and the other way round")

    from cogvideox.generation.enhance import CaptionStyle, enhance_prompt
    from cogvideox.llm.cache import ResponseCache
    from cogvideox.llm.chat import Frame
    from cogvideox.llm.models import ModelConfig

    style, file = CaptionStyle.load(command.enhance), command.enhance_model
    is_config = file.suffix in (".yaml", ".yml", ".json")
    model = config.load(ModelConfig, file) if is_config else ModelConfig.from_path(file)
    stored = command.prompts is not None and command.output is not None
    cache = ResponseCache(command.output / RESPONSES if stored and command.output is not None else ":memory:")
    try:
        client = model.client(cache)

        def rewrite(prompt: str, image: Any) -> str:
            frame = None
            if image is not None:
                from cogvideox.generation.request.inputs import read_inputs
                from cogvideox.video.jpeg import encode_jpeg

                pixels = read_inputs(image, None, fps=1.0).image
                frame = None if pixels is None else Frame(encode_jpeg(pixels, 768))
            rewritten = enhance_prompt(prompt, style, client, frame)
            if rewritten != prompt:
                print_note(f"prompt: {rewritten}")
            return rewritten

        try:
            yield rewrite
        finally:
            client.model.close()
    finally:
        cache.close()
