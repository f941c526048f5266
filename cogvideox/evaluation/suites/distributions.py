"""The suite of distances between sets of videos: FVD and its relatives, in features that are chosen by name.

Features are measured once per video, so a set of real videos is measured by an evaluation of its own, whose folder is
then the reference of others. Their captions are the prompts, as in the paper's ablations (500 videos of WebVid).
"""

from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.evaluation.frechet.features import check_extractor
from cogvideox.evaluation.frechet.scorer import KEY, MIN_VIDEOS, FeatureDistance
from cogvideox.evaluation.frechet.text_similarity import TextSimilarity
from cogvideox.evaluation.plugins import parse_plugin
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.evaluation.scorer import Item, Scorer
from cogvideox.evaluation.suite import Suite, SuiteOptions, check_settings, numbered
from cogvideox.untrusted.files import read_text

SETTINGS = ("features", "reference", "text")


def distribution_suite(options: SuiteOptions) -> Suite:
    """Build the suite.

    Args:
        options: `settings` may have `features` (see `frechet.features`) and `reference`, the folder of an evaluation
            with this suite, and `text`, a model of the similarity to prompts (`frechet.text_similarity`). `prompts`
            is a text file with one prompt per line, instead of the reference's captions.

    Raises:
        UserError: unknown setting or features, or a reference with different features.
    """
    check_settings("distribution", options, SETTINGS)
    features = options.settings.get("features", "random")
    identity = check_extractor(features)
    scorer, prompts = FeatureDistance(features), []
    if "reference" in options.settings:
        folder = Path(options.settings["reference"])
        reference = EvaluationResults.load(folder)
        measured = [video.measurements["frechet"] for video in reference.videos if "frechet" in video.measurements]
        if len(measured) < MIN_VIDEOS:
            raise UserError(
                f"{folder} has features of {len(measured)} videos, and a reference needs {MIN_VIDEOS}: "
                "evaluate it with --suite distribution first"
            )
        rows, weights = [values[KEY] for values in measured], {values.get("weights", "") for values in measured}
        name = reference.options.get("settings", {}).get("features", "random")
        if name != features or weights != {identity.get("weights", "")}:
            expected = identity["features"]
            raise UserError(f"{folder} has different features than {expected}: use the same --set features=...")
        scorer = FeatureDistance(features, tuple(map(tuple, rows)), str(folder.resolve()))
        prompts = [video.prompt for video in reference.videos]
    if options.prompts is not None:
        try:
            prompts = [line.strip() for line in read_text(options.prompts).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {options.prompts}: {error}") from None
    scorers: tuple[Scorer, ...] = (scorer,)
    if "text" in options.settings:
        scorers += (TextSimilarity(parse_plugin("text", options.settings["text"])),)
    items = [Item("", prompt) for prompt in prompts[: options.num_prompts]]
    return Suite(
        "distribution",
        numbered(items, options.videos_per_prompt or 1, options.seed),
        scorers,
        lambda prompt: Item("", prompt),
    )
