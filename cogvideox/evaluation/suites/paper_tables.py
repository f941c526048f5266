"""Table 3 of the paper, for reports."""

from collections.abc import Mapping

from cogvideox.evaluation.suite import PublishedRow

COLUMNS = (
    "human_action",
    "scene",
    "dynamic_degree",
    "multiple_objects",
    "appearance_style",
    "dynamic_quality",
    "gpt4o_mtscore",
)
_ROWS: dict[str, tuple[float | None, ...]] = {
    "T2V-Turbo": (95.2, 55.58, 49.17, 54.65, 24.42, None, None),
    "AnimateDiff": (92.6, 50.19, 40.83, 36.88, 22.42, None, 2.62),
    "VideoCrafter-2.0": (95.0, 55.29, 42.50, 40.66, 25.13, 43.6, 2.68),
    "OpenSora 1.2": (85.8, 42.47, 47.22, 58.41, 23.89, 63.7, 2.52),
    "Show-1": (95.6, 47.03, 44.44, 45.47, 23.06, 57.7, None),
    "Gen-2": (89.2, 48.91, 18.89, 55.47, 19.34, 43.6, 2.62),
    "Pika": (88.0, 44.80, 37.22, 46.69, 21.89, 52.1, 2.48),
    "LaVie-2": (96.4, 49.59, 31.11, 64.88, 25.09, None, 2.46),
    "CogVideoX-2B": (96.6, 55.35, 66.39, 57.68, 24.37, 57.7, 3.09),
    "CogVideoX-5B": (96.8, 55.44, 62.22, 70.95, 24.44, 69.5, 3.36),
}
SOURCE = (
    "Table 3 of the paper. The first five columns are raw VBench scores; the rows of CogVideoX on VBench's board were "
    "measured by VBench-Long, with prompts that GPT rewrote. The column MTScore mixes sets: 3.09 and 3.36 are of 150 "
    "prompts, 2.68 and 2.46 of 1649."
)


def table_3(names: Mapping[str, str]) -> tuple[PublishedRow, ...]:
    """Return the rows that have values in the columns that an evaluation measures.

    Args:
        names: name of the metric by column (`COLUMNS`). Percentages become fractions.
    """
    rows = []
    for model, values in _ROWS.items():
        row = {
            names[column]: value / (1 if column == "gpt4o_mtscore" else 100)
            for column, value in zip(COLUMNS, values, strict=True)
            if column in names and value is not None
        }
        if row:
            rows.append(PublishedRow(model, row))
    return tuple(rows)
