"""The suite of five dimensions of VBench, with the prompts of `VBench_full_info.json`."""

import hashlib
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.plugins import ROLES as KINDS
from cogvideox.evaluation.plugins import parse_plugin
from cogvideox.evaluation.scorer import Item
from cogvideox.evaluation.suite import Suite, SuiteOptions, check_settings, choice, numbered
from cogvideox.evaluation.suites.paper_tables import SOURCE, table_3
from cogvideox.evaluation.vbench.scorer import ROLES, VBenchDimension
from cogvideox.untrusted.files import parse_json, read_bytes, read_text

SETTINGS = ("dimensions", "protocol", "official_bugs", "rewritten", *ROLES.values())
VIDEOS_PER_PROMPT = 5


def vbench_suite(options: SuiteOptions) -> Suite:
    """Build the suite.

    Args:
        options: `prompts` is VBench's `VBench_full_info.json`. `settings` has a model for each dimension
            (`plugins`: action, scene, objects, flow, style), and may have `dimensions`, a comma-separated choice
            (default: those with a model); `protocol`, "short" or "long"; `official_bugs`, "yes" or "no"; and
            `rewritten`, a text file with a rewritten prompt per line, in the order of the official file, which the
            model gets instead.

    Raises:
        UserError: unknown setting, a dimension without a model, or a damaged file.
    """
    check_settings("vbench", options, SETTINGS)
    if options.prompts is None:
        raise UserError("the vbench suite needs --prompts VBench_full_info.json, from VBench's repository or package")
    settings = options.settings
    dimensions = [name for name, role in ROLES.items() if role in settings]
    if "dimensions" in settings:
        dimensions = [choice(name.strip(), tuple(ROLES), "dimensions") for name in settings["dimensions"].split(",")]
    if not dimensions:
        forms = ", ".join(f"--set {role}={'|'.join(KINDS[role])}" for role in ROLES.values())
        raise UserError(f"the vbench suite needs a model for at least one dimension: {forms}")
    for name in dimensions:
        if ROLES[name] not in settings:
            kinds = "|".join(KINDS[ROLES[name]])
            raise UserError(f"the dimension {name} needs a model: --set {ROLES[name]}={kinds}")
    long = choice(settings.get("protocol", "short"), ("short", "long"), "protocol") == "long"
    official_bugs = choice(settings.get("official_bugs", "no"), ("yes", "no"), "official_bugs") == "yes"
    scorers = tuple(
        VBenchDimension(name, parse_plugin(ROLES[name], settings[ROLES[name]]), long, official_bugs)
        for name in dimensions
    )
    entries, variant = _read_prompts(options.prompts), "original"
    if "rewritten" in settings:
        entries, variant = _with_rewritten(entries, Path(settings["rewritten"]))
    prompts = [
        Item(
            "",
            prompt,
            name,
            info={"auxiliary_info": entry["auxiliary_info"][name]} if name in entry.get("auxiliary_info", {}) else {},
            generation_prompt=entry.get("rewritten"),
        )
        for name in dimensions
        for prompt, entry in [(entry["prompt_en"], entry) for entry in entries if name in entry["dimension"]][
            : options.num_prompts
        ]
    ]
    by_prompt = {item.prompt: item for item in prompts}
    if len(by_prompt) < len(prompts):
        raise UserError(f"{options.prompts} has a prompt in several of the dimensions {', '.join(dimensions)}")
    variants = [scorer.name for scorer in scorers if not scorer.model.is_official]
    note = f" Not comparable with it, because they use other models: {', '.join(variants)}." if variants else ""
    return Suite(
        "vbench",
        numbered(prompts, options.videos_per_prompt or VIDEOS_PER_PROMPT, options.seed),
        scorers,
        by_prompt.get,
        variant,
        published=table_3({scorer.dimension: scorer.name for scorer in scorers}),
        source=SOURCE + note,
        prompt_settings=("rewritten",),
        reads_prompts=True,
    )


def _read_prompts(path: Path) -> list[dict[str, Any]]:
    entries = parse_json(read_bytes(path))
    valid = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("prompt_en"), str)
        and isinstance(entry.get("dimension"), list)
        and isinstance(entry.get("auxiliary_info", {}), dict)
        for entry in entries
    )
    if not valid:
        raise UserError(f"{path} is not VBench_full_info.json: it must be a list of prompts and their dimensions")
    return entries


def _with_rewritten(entries: list[dict[str, Any]], path: Path) -> tuple[list[dict[str, Any]], str]:
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) != len(entries) or not all(lines):
        raise UserError(f"{path} has {len(lines)} lines, and there are {len(entries)} prompts: write one per line")
    joined = [{**entry, "rewritten": line} for entry, line in zip(entries, lines)]
    return joined, f"{path.name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
