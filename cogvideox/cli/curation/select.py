"""`cogvideox select MANIFEST OUT --policy P`: select clips of a manifest, or explain the selection of one clip."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.cli.common.arguments import Parser
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from cogvideox.curation.selection import ManifestSelector

MAX_STEPS = 12  # steps in the printed table


def run(arguments: list[str]) -> None:
    """Select clips and print what is kept at which step, or explain one clip."""
    options = parser().parse(arguments)
    if options.manifest is None or options.policy is None:
        raise UserError("select needs MANIFEST, the folder that `cogvideox curate` wrote, and --policy FILE")
    if options.output is None and options.explain is None:
        raise UserError("select needs OUT, the folder to write to, or --explain CLIP")
    if options.output is not None and options.explain is not None:
        raise UserError("--explain writes nothing: remove OUT")
    if options.step is not None and options.step < 0:
        raise UserError(f"--step {options.step} must be 0 or more")
    from cogvideox import config
    from cogvideox.curation.clusters import CLUSTER, Clustering
    from cogvideox.curation.selection import POLICY, ManifestSelector
    from cogvideox.filter_policy.policy import Policy

    policy = config.load(Policy, options.policy)
    if options.output is not None:
        curated = options.manifest if options.manifest.is_dir() else options.manifest.parent
        if options.output.resolve() == curated.resolve():
            raise UserError(f"OUT must differ from {curated}, because its metadata.parquet would be overwritten")
    if options.clusters is None and options.embedding is not None:
        raise UserError("--embedding is for clusters: add --clusters N")
    clustering = None
    if options.clusters is not None:
        if policy.balance is None or policy.balance.column != CLUSTER:
            raise UserError(f"--clusters is for a policy with balance over {CLUSTER}: add `balance: {{}}` to it")
        clustering = Clustering(options.clusters, options.embedding or Clustering.embedding)
    manifest = ManifestSelector(options.manifest, policy, clustering)
    if options.explain is not None:
        print(format_explanation(manifest, options.explain, options.step or 0))
        return
    assert options.output is not None
    number = manifest.write(options.output, options.step, options.raw)
    print(format_counts(manifest, options.step))
    when = "at some step" if options.step is None else f"at step {options.step:,}"
    moving = options.step is None and len(manifest.selector.policy.knots) > 1
    print(f"{options.output} lists the {number:,} clips that the policy keeps{f' {when}' if moving else ''}")
    if moving:
        print(f"train with --policy {options.output / POLICY} to move the thresholds", file=sys.stderr)


def format_counts(manifest: "ManifestSelector", step: int | None) -> str:
    """Format what the policy keeps at its steps, and what each condition keeps alone."""
    steps = list(manifest.policy.knots) if step is None else [step]
    if len(steps) > MAX_STEPS:
        steps = [steps[i * (len(steps) - 1) // (MAX_STEPS - 1)] for i in range(MAX_STEPS)]
    total, hours = len(manifest.rows), manifest.seconds.sum() / 3600
    lines = [f"{'measured clips':<32}{total:>12,}{hours:>12.2f} h"]
    for at in steps:
        kept = manifest.kept_at(at)
        name = f"kept at step {at:,}" if len(steps) > 1 or step is not None else "kept"
        lines.append(f"{name:<32}{kept.clips:>12,}{kept.hours:>12.2f} h{kept.clips / total:>9.1%}")
        for column, clips in kept.by_column.items() if len(steps) <= 2 else ():
            lines.append(f"  {f'{column} alone':<30}{clips:>12,}{'':>14}{clips / total:>9.1%}")
    return "\n".join(lines)


def format_explanation(manifest: "ManifestSelector", clip: str, step: int) -> str:
    """Format every condition of the policy with the value of a clip."""
    from cogvideox.filter_policy.explain import explain, format_steps

    explanation = explain(manifest.selector, manifest.find(clip), step)
    header = ("condition", "value", f"rule at step {step:,}", "passes", "at steps")
    table = [header]
    for condition in explanation.conditions:
        value = "-" if condition.value is None else condition.value
        value = value if isinstance(value, str) else f"{value:.6g}"
        steps = "" if condition.steps is None else format_steps(condition.steps)
        table.append((condition.name, value, condition.rule, "yes" if condition.passes else "no", steps))
    table.append(("all bounds", "", "", "", format_steps(explanation.steps)))
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
    verdict = "kept" if explanation.kept else "not kept"
    return "\n".join([*lines, f"{clip} is {verdict} at step {step:,}"])


def parser() -> Parser:
    """Return the argument parser."""
    p = Parser(
        "select",
        "MANIFEST OUT --policy FILE",
        "Select clips of a curation with a policy. OUT then has metadata.parquet (the selected clips; `encode OUT` and "
        "`train` read it) and policy.yaml (the policy with quantiles as values, for `train --policy`).",
    )
    p.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST", help="the folder that `curate` wrote")
    p.add_argument("output", nargs="?", type=Path, metavar="OUT", help="folder to write to")
    p.add_argument("--policy", type=Path, metavar="FILE", help="policy as YAML or JSON")
    p.add_argument("--step", type=int, metavar="N", help="training step (default: clips that pass at any step)")
    clusters = "compute N clusters of similar clips, for a policy with balance"
    p.add_argument("--clusters", type=int, metavar="N", help=clusters)
    embedding = "column of vectors that are clustered (default: tags.embedding)"
    p.add_argument("--embedding", metavar="COLUMN", help=embedding)
    p.add_argument("--raw", type=Path, metavar="RAW", help="the raw files, if they were moved since `curate`")
    explain = "show every bound with the value of a clip: its id, the beginning of its id, or its file"
    p.add_argument("--explain", metavar="CLIP", help=explain)
    return p
