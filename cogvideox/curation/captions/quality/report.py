"""Caption quality by stage: question-answering accuracy and similarity to references."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.curation.captions.config import STAGES
from cogvideox.curation.captions.outputs import CAPTIONS
from cogvideox.curation.captions.quality.qa import accuracy, grade, read_questions
from cogvideox.curation.captions.quality.similarity import SentenceEncoder, embedding_similarity, rouge_l
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.models import ModelConfig
from cogvideox.records import Score
from cogvideox.untrusted.files import read_json, reading

QUALITY, RESPONSES = "quality.json", "judge-responses.sqlite"


def measure_quality(
    output: Path, questions: Path | None, judge: Path | None, references: Path | None, encoder: Path | None
) -> list[str]:
    """Write `quality.json` with all scores by stage, and return one summary line per stage.

    Args:
        output: folder with the captions.
        questions: file of questions, see `qa.read_questions`.
        judge: file with the `ModelConfig` of the model that answers and grades.
        references: JSON file of reference captions by clip id or source.
        encoder: folder of a sentence encoder.

    Raises:
        UserError: a file cannot be read, or questions are given without a judge.
    """
    captions = captions_by_stage(output)
    scores: dict[str, dict[str, Score]] = {stage: {} for stage in captions}
    failures: dict[str, Any] = {}
    if questions is not None:
        if judge is None:
            raise UserError("--questions needs --judge FILE, the config of the model that answers and grades")
        question_list = read_questions(questions)
        cache = ResponseCache(output / RESPONSES)
        client = config.load(ModelConfig, judge).client(cache)
        try:
            for stage, texts in captions.items():
                graded = grade(client, texts, question_list)
                scores[stage] |= accuracy(graded, client.model.model_id)
                failures[stage] = [[item.question.clip, item.reason] for item in graded if item.correct is None]
        finally:
            client.model.close()
            cache.close()
    if references is not None:
        reference_captions = {clip: str(text) for clip, text in read_json(references).items()}
        model = None if encoder is None else SentenceEncoder(encoder)
        for stage, texts in captions.items():
            scores[stage] |= similarity(texts, reference_captions, model)
    data = {
        stage: {name: asdict(score) for name, score in stage_scores.items()} for stage, stage_scores in scores.items()
    }
    write_text(output / QUALITY, json.dumps({"scores": data, "failed_questions": failures}, indent=2) + "\n")
    return [_line(stage, stage_scores) for stage, stage_scores in scores.items() if stage_scores]


def captions_by_stage(output: Path) -> dict[str, dict[str, str]]:
    """Return the captions by stage, keyed by clip id; frame captions are concatenated.

    A caption is also keyed by the source of its clip if no other clip has the same source.

    Raises:
        UserError: there are no captions.
    """
    from pyarrow import parquet

    path = output / CAPTIONS
    if not path.is_file():
        raise UserError(f"cannot read {path}: run `cogvideox caption IN {output} --pipeline FILE` first")
    with reading(path, "damaged or not a Parquet file"):
        rows = parquet.read_table(path).to_pylist()
    clips: dict[str, set[str]] = {}
    for row in rows:
        clips.setdefault(row["source"], set()).add(row["id"])
    captions: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        for row in rows:
            text = row.get(f"caption.{stage}")
            if text and stage == "frames":
                text = " ".join(frame["text"] for frame in json.loads(text))
            if text:
                names = [row["id"], *([row["source"]] if len(clips[row["source"]]) == 1 else [])]
                captions.setdefault(stage, {}).update(dict.fromkeys(names, text))
    return captions


def similarity(texts: dict[str, str], references: dict[str, str], encoder: SentenceEncoder | None) -> dict[str, Score]:
    """Return the mean similarity of the captions to their references."""
    clips = [clip for clip in references if clip in texts]
    if not clips:
        return {}
    pairs = [(texts[clip], references[clip]) for clip in clips]
    protocol = {"num_clips": len(clips)}
    scores = {"rouge_l": Score("captions/rouge_l", float(np.mean([rouge_l(*pair) for pair in pairs])), None, protocol)}
    if encoder is not None:
        cosines = embedding_similarity(encoder, *map(list, zip(*pairs)))
        scores["cosine"] = Score("captions/cosine", float(np.mean(cosines)), None, protocol)
    return scores


def _line(stage: str, scores: dict[str, Score]) -> str:
    parts = []
    for name, score in scores.items():
        interval = "" if score.interval is None else f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
        parts.append(f"{name} {score.value:.3f}{interval}")
    failed = next(
        (score.protocol.get("num_failed") for score in scores.values() if score.protocol.get("num_failed")), 0
    )
    return f"{stage}: {', '.join(parts)}" + (f"; {failed} questions without a grade" if failed else "")
