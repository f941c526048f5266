"""`cogvideox evaluate compare A B`: compare two evaluations of one suite, prompt by prompt."""

from pathlib import Path

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError


def run(arguments: list[str]) -> None:
    """Print the comparison and, with -o, write it."""
    options = parser().parse(arguments)
    if options.a is None or options.b is None:
        raise UserError("evaluate compare needs A and B, two folders that `cogvideox evaluate` wrote")

    from cogvideox.atomic_io import write_text
    from cogvideox.evaluation.compare import compare, format_comparison
    from cogvideox.evaluation.results import EvaluationResults

    text = format_comparison(compare(EvaluationResults.load(options.a), EvaluationResults.load(options.b)))
    print(f"A: {options.a}\nB: {options.b}\n\n{text}", end="")
    if options.output is not None:
        write_text(options.output, f"# A: {options.a}, B: {options.b}\n\n{text}")
        print(options.output)


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "evaluate compare",
        "A B",
        "Compare two evaluations of one suite over the prompts that both have. Intervals and p values are of paired "
        "differences.",
    )
    p.add_argument("a", nargs="?", type=Path, metavar="A", help="a folder that `evaluate` wrote")
    p.add_argument("b", nargs="?", type=Path, metavar="B", help="a second folder that `evaluate` wrote")
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the comparison as Markdown")
    return p
