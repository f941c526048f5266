"""Quality of all rungs of a captioning: questions and answers, and similarity to references."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import config
from cogvideox.atomic_io import write_text
from cogvideox.curation.captions.outputs import CAPTIONS
from cogvideox.curation.captions.quality.qa import accuracy, grade, read_questions
from cogvideox.curation.captions.quality.similarity import SentenceEncoder, embedding_similarity, rouge_l
from cogvideox.errors import UserError
from cogvideox.llm.cache import ResponseCache
from cogvideox.llm.models import ModelConfig
from cogvideox.records import Score
from cogvideox.untrusted.files import read_json, reading

QUALITY, RESPONSES = "quality.json", "judge-responses.sqlite"
RUNGS = ("short", "frames", "summary", "direct")


def measure_quality(
    output: Path, questions: Path | None, judge: Path | None, references: Path | None, encoder: Path | None
) -> list[str]:
    """Write `quality.json` with all scores by rung, and return lines that show them.

    Args:
        questions, judge: see `qa.read_questions`; file with a `ModelConfig`.
        references, encoder: JSON object of captions by clip (id or source); folder of a sentence encoder.

    Raises:
        UserError: a file cannot be read, or there is no judge for the questions.
    """
    captions = rung_captions(output)
    scores: dict[str, dict[str, Score]] = {rung: {} for rung in captions}
    failures: dict[str, Any] = {}
    if questions is not None:
        if judge is None:
            raise UserError("--questions needs --judge FILE, the model that answers and grades")
        asked = read_questions(questions)
        cache = ResponseCache(output / RESPONSES)
        client = config.load(ModelConfig, judge).client(cache)
        try:
            for rung, texts in captions.items():
                graded = grade(client, texts, asked)
                scores[rung] |= accuracy(graded, client.model.model_id)
                failures[rung] = [[item.question.clip, item.reason] for item in graded if item.correct is None]
        finally:
            client.model.close()
            cache.close()
    if references is not None:
        wanted = {clip: str(text) for clip, text in read_json(references).items()}
        model = None if encoder is None else SentenceEncoder(encoder)
        for rung, texts in captions.items():
            scores[rung] |= similarity(texts, wanted, model)
    data = {rung: {name: asdict(score) for name, score in of_rung.items()} for rung, of_rung in scores.items()}
    write_text(output / QUALITY, json.dumps({"scores": data, "failed_questions": failures}, indent=2) + "\n")
    return [_line(rung, of_rung) for rung, of_rung in scores.items() if of_rung]


def rung_captions(output: Path) -> dict[str, dict[str, str]]:
    """Return the captions of each rung by clip, under its id and its source; those of frames are joined.

    Raises:
        UserError: there are no captions.
    """
    from pyarrow import parquet

    path = output / CAPTIONS
    if not path.is_file():
        raise UserError(f"cannot read {path}: `cogvideox caption IN {output} --ladder FILE` writes it")
    with reading(path, "damaged or not a Parquet file"):
        rows = parquet.read_table(path).to_pylist()
    captions: dict[str, dict[str, str]] = {}
    for rung in RUNGS:
        for row in rows:
            text = row.get(f"caption.{rung}")
            if text and rung == "frames":
                text = " ".join(frame["text"] for frame in json.loads(text))
            if text:
                captions.setdefault(rung, {}).update({row["id"]: text, row["source"]: text})
    return captions


def similarity(texts: dict[str, str], references: dict[str, str], encoder: SentenceEncoder | None) -> dict[str, Score]:
    """Return the mean similarity of captions to the references of their clips."""
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


def _line(rung: str, scores: dict[str, Score]) -> str:
    parts = []
    for name, score in scores.items():
        interval = "" if score.interval is None else f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
        parts.append(f"{name} {score.value:.3f}{interval}")
    failed = next(
        (score.protocol.get("num_failed") for score in scores.values() if score.protocol.get("num_failed")), 0
    )
    return f"{rung}: {', '.join(parts)}" + (f"; {failed} questions without a grade" if failed else "")
