"""The suite of GPT4o-MTScore, with the prompts of ChronoMagic-Bench."""

import csv
import io
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.evaluation.judge.mtscore import MTScore
from cogvideox.evaluation.scorer import Item
from cogvideox.evaluation.suite import Suite, SuiteOptions, check_settings, numbered, positive
from cogvideox.evaluation.suites.paper_tables import SOURCE, table_3
from cogvideox.untrusted.files import read_text

SETTINGS = ("judge", "repeats")
VIDEOS_PER_PROMPT = 3
"""Runs of open models in published scores."""


def mtscore_suite(options: SuiteOptions) -> Suite:
    """Build the suite.

    Args:
        options: `prompts` is a table with the columns `videoid` and `name` (the prompt), such as
            `Captions_ChronoMagic-Bench-150.csv`. `settings` has `judge`, the file of a judge's settings, and may have
            `repeats`, the number of requests for each video.

    Raises:
        UserError: unknown setting, or a damaged file.
    """
    check_settings("mtscore", options, SETTINGS)
    if options.prompts is None:
        raise UserError(
            "the mtscore suite needs --prompts FILE, a table of ChronoMagic-Bench with the columns videoid and name"
        )
    if "judge" not in options.settings:
        raise UserError("the mtscore suite needs a judge: add --set judge=SETTINGS.yaml (docs/evaluate.md)")
    scorer = MTScore(Path(options.settings["judge"]), positive(options, "repeats", 1))
    prompts = read_prompts(options.prompts)[: options.num_prompts]
    by_name = {item.prompt: item for item in prompts} | {str(item.info["videoid"]): item for item in prompts}
    note = "" if scorer.is_official else f" This judge is not that of the table, so judge/{scorer.name} is a variant."
    return Suite(
        "mtscore",
        numbered(prompts, options.videos_per_prompt or VIDEOS_PER_PROMPT, options.seed),
        (scorer,),
        by_name.get,
        published=table_3({"gpt4o_mtscore": f"judge/{scorer.name}"}),
        source=SOURCE + note,
        reads_prompts=True,
    )


def read_prompts(path: Path) -> list[Item]:
    """Read a table with the columns `videoid` and `name`.

    Raises:
        UserError: the file cannot be read, or has no such columns.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not rows or any(not row.get("videoid") or not row.get("name") for row in rows):
        raise UserError(f"{path} is not a table of ChronoMagic-Bench: it needs rows with the columns videoid and name")
    return [Item("", row["name"].strip(), info={"videoid": row["videoid"]}) for row in rows]
