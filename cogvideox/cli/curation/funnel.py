"""`cogvideox funnel OUT`: print what a curation kept and dropped, and write the funnel page."""

from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError
from cogvideox.untrusted.files import read_json
from cogvideox.untrusted.text_encoding import check_utf8_path

if TYPE_CHECKING:
    from cogvideox.curation.selection import ManifestSelector
    from cogvideox.filter_policy.policy import Policy


def run(arguments: list[str]) -> None:
    """Print the funnel and, with --html, write the page."""
    options = parser().parse(arguments)
    if options.output is None:
        raise UserError("funnel needs OUT, the folder that `cogvideox curate` wrote")
    if options.raw is not None and not options.html:
        raise UserError("--raw adds thumbnails to the page: add --html")
    check_utf8_path(options.output)
    selector = None if options.policy is None else load_selector(options.output, options.policy)
    print_funnel(options.output)
    if selector is not None:
        from cogvideox.cli.curation.select import format_counts

        print(format_counts(selector, None))
    if options.html:
        print(write_page(options.output, options.raw, None if selector is None else selector.selector.policy))


def load_selector(output: Path, file: Path) -> "ManifestSelector":
    """Apply the policy of a file to a manifest."""
    from cogvideox import config
    from cogvideox.curation.selection import ManifestSelector
    from cogvideox.filter_policy.policy import Policy

    return ManifestSelector(output, config.load(Policy, file))


def print_funnel(output: Path) -> None:
    """Print the counts of each stage, with reasons."""
    from cogvideox.curation.funnel.counts import format_funnel, funnel
    from cogvideox.curation.manifest import read_manifest, scalar_columns

    print(format_funnel(funnel(read_manifest(output, scalar_columns(output)))))


def write_page(output: Path, raw: Path | None, policy: "Policy | None" = None) -> Path:
    """Write `funnel.html`, with the thresholds of a resolved policy, and return its path."""
    from cogvideox.curation.funnel import page
    from cogvideox.curation.manifest import read_manifest, scalar_columns
    from cogvideox.curation.run import RUN

    try:
        document = read_json(output / RUN)
        rates = {
            "rows": {name: int(number) for name, number in document["rows"].items()},
            "seconds": {name: float(number) for name, number in document["seconds"].items()},
        }
    except (UserError, AttributeError, KeyError, TypeError, ValueError, OverflowError):  # missing or damaged
        rates = None
    return page.write_page(read_manifest(output, scalar_columns(output)), raw, output, rates, policy)


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "funnel",
        "OUT",
        "Show how many clips passed each stage of a curation, and which were dropped and why.",
    )
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="the folder that `curate` wrote")
    policy = "also count what a policy keeps, and show its thresholds in the page"
    p.add_argument("--policy", type=Path, metavar="FILE", help=policy)
    p.add_argument("--html", action="store_true", help="also write OUT/funnel.html")
    p.add_argument("--raw", type=Path, metavar="RAW", help="the raw files, for thumbnails in the page")
    return p
