"""The suite of DEVIL: prompts of five grades of motion, and dynamics-based quality."""

from collections.abc import Callable
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.evaluation.dynamics.aggregate import GRADES, grade_of_name
from cogvideox.evaluation.dynamics.regression import DynamicsRegression
from cogvideox.evaluation.dynamics.scorer import Dynamics
from cogvideox.evaluation.plugins import parse_plugin
from cogvideox.evaluation.scorer import Item
from cogvideox.evaluation.suite import Suite, SuiteOptions, check_settings, choice, numbered
from cogvideox.evaluation.suites.paper_tables import SOURCE, table_3
from cogvideox.untrusted.files import read_text

MODELS = ("flow", "dino", "subject", "background")
"""Settings that choose a model, which are its roles (`plugins`)."""
SETTINGS = ("regression", "judge", "values", "official_bugs", *MODELS)


def devil_suite(options: SuiteOptions) -> Suite:
    """Build the suite.

    Args:
        options: `prompts` is the folder `prompts` of DEVIL's repository, with a folder of text files for each grade; it
            is not needed for folders of videos named by grade, "very_high_12.mp4". `settings` has `regression`, the
            file of the regressions (`dynamics.regression`), and may have models (flow, dino, subject, background), the
            settings of a `judge` of naturalness, a table of further `values`, and `official_bugs`, "yes" or "no".

    Raises:
        UserError: unknown setting, or a damaged file.
    """
    check_settings("devil", options, SETTINGS)
    settings = options.settings
    if "regression" not in settings:
        raise UserError("the devil suite needs --set regression=FILE.json, the regressions of the dynamics score")
    flow, dino, subject, background = (
        parse_plugin(role, settings[role]) if role in settings else None for role in MODELS
    )
    judge, values = (Path(settings[name]) if name in settings else None for name in ("judge", "values"))
    official_bugs = choice(settings.get("official_bugs", "no"), ("yes", "no"), "official_bugs") == "yes"
    regression = Path(settings["regression"])
    DynamicsRegression.load(regression)
    if official_bugs and flow is not None and not flow.is_official:
        raise UserError(
            f"--set official_bugs=yes applies to RAFT only, not to flow={flow.kind}: add --set flow=raft:FILE, or "
            "remove it"
        )
    scorer = Dynamics(regression, flow, dino, subject, background, judge, values, official_bugs)
    prompts = [] if options.prompts is None else read_prompts(options.prompts, options.num_prompts)
    metric = next((metric.name for metric in scorer.metrics if metric.name.endswith("/dynamic_quality")), None)
    note = "" if scorer.is_official else " This evaluation uses other measurements or judges, so it is a variant."
    return Suite(
        "devil",
        numbered(prompts, options.videos_per_prompt or 1, options.seed),
        (scorer,),
        item_of({item.prompt: item for item in prompts}),
        published=() if metric is None else table_3({"dynamic_quality": metric}),
        source=SOURCE + note,
        reads_prompts=True,
    )


def read_prompts(folder: Path, number: int | None) -> list[Item]:
    """Read the prompts of all grades, at most `number` of each.

    Raises:
        UserError: a grade has no prompts.
    """
    items = []
    for index, grade in enumerate(GRADES):
        try:
            texts = [read_text(path) for path in sorted((folder / grade).glob("*.txt"))]
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the prompts in {folder / grade}: {error}") from None
        lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
        if not lines:
            raise UserError(
                f"{folder / grade} has no text files with prompts: pass the folder `prompts` of DEVIL's repository "
                "with --prompts"
            )
        items += [Item("", line, info={"grade": index}) for line in lines[:number]]
    return items


def item_of(by_prompt: dict[str, Item]) -> Callable[[str], Item | None]:
    """Return a function that returns the item of a prompt, or of a file's name that begins with a grade."""

    def find(name: str) -> Item | None:
        if name in by_prompt:
            return by_prompt[name]
        grade = grade_of_name(name)
        return None if grade is None else Item("", name, info={"grade": grade, "name": name})

    return find
