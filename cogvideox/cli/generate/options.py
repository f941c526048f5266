"""The flags of `cogvideox generate`, derived from the declared options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cogvideox.cli.common.arguments import Parser, add_options, parse_options
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.options import Option, list_options


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Options that exist only on the command line: input and output files, number of videos."""

    output: Annotated[
        Path | None,
        Option(
            "x.mp4, x.gif or x.png; settings are written to x.json (default: named after the prompt)",
            "files",
            common=True,
            flags=("-o", "--output"),
        ),
    ] = None
    overwrite: Annotated[
        bool, Option("replace an existing video that has other settings, such as another seed", "files", common=True)
    ] = False
    sheet: Annotated[bool, Option("also write all frames as one image, x-sheet.png", "files")] = False
    sidecar: Annotated[
        Path | None,
        Option(
            "reproduce a video from its JSON file; other options override its settings",
            "files",
            "X.JSON",
            common=True,
            flags=("--from",),
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        Option("generate a video for each line of a file, in the folder `output`; skip existing videos", "files"),
    ] = None
    num_videos: Annotated[int, Option("number of videos, with consecutive seeds", "sampling", low=1)] = 1
    lora: Annotated[
        tuple[str, ...], Option("apply a LoRA; may be repeated", "model", "FILE[:STRENGTH]", common=True)
    ] = ()
    enhance: Annotated[
        Path | None,
        Option("rewrite short prompts in the style of `caption-style.yaml`, written by `caption`", "files", "FILE"),
    ] = None
    enhance_model: Annotated[
        Path | None,
        Option("language model for `enhance`: a GGUF file, a model folder, or a config (YAML, JSON)", "files", "MODEL"),
    ] = None
    plan: Annotated[bool, Option("print the memory plan and exit", "model")] = False


@dataclass(frozen=True)
class Arguments:
    """The parsed options of a command line, validated individually.

    Attributes:
        request, load: the fields of `Request` and `LoadOptions` that are set, by name.
    """

    request: dict[str, Any]
    load: dict[str, Any]
    command: CommandOptions


def parse(arguments: Sequence[str]) -> Arguments:
    """Parse the arguments of `cogvideox generate`. `--help` lists the common options, `--help-all` all options.

    Raises:
        UserError: unknown flag; value of the wrong type or out of bounds.
    """
    request, load, command = (list_options(cls) for cls in (Request, LoadOptions, CommandOptions))
    options = {**request, **command, **load}
    summary = "Generate a video from a prompt, an image or a video. Options default to the model's settings."
    parser = Parser("generate", '"PROMPT"', summary)
    parser.add_argument("--help-all", action="help", help="show all options and exit")
    add_options(parser, options, common_only="--help-all" not in arguments)
    values = parse_options(parser, options, arguments)
    return Arguments(
        {name: value for name, value in values.items() if name in request},
        {name: value for name, value in values.items() if name in load},
        CommandOptions(**{name: value for name, value in values.items() if name in command}),
    )
