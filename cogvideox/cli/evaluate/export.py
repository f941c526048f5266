"""`cogvideox evaluate export OUT -o FOLDER`: write the videos of an evaluation as official tools expect them."""

from pathlib import Path

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError


def run(arguments: list[str]) -> None:
    """Export the videos."""
    options = parser().parse(arguments)
    if options.source is None or options.output is None:
        raise UserError("evaluate export needs OUT, a folder that `cogvideox evaluate` wrote, and -o FOLDER")

    from cogvideox.evaluation.export import export_vbench
    from cogvideox.evaluation.results import EvaluationResults

    number = export_vbench(EvaluationResults.load(options.source), options.source, options.output)
    print(f"{options.output}: {number} videos, VBench_full_info.json and our scores")


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "evaluate export",
        "OUT -o FOLDER",
        "Write the videos of an evaluation in the layout of VBench's official tools, so that they can score the same "
        "files: videos named by prompt and number, VBench_full_info.json, and our scores in the official form.",
    )
    p.add_argument("source", nargs="?", type=Path, metavar="OUT", help="a folder that `evaluate` wrote")
    p.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder to write to")
    return p
