"""Export of evaluated videos to the layout of VBench's official tools, which then score the same files.

FOLDER/videos/a bird and a cat-0.mp4            the original prompt, and the index of the video
FOLDER/VBench_full_info.json                    prompts, dimensions and auxiliary names of the exported videos
FOLDER/results/cogvideox_eval_results.json      scores in the official format: {dimension: [value, [videos]]}
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideox.atomic_io import atomic_write, write_text
from cogvideox.errors import UserError
from cogvideox.evaluation.protocol import check_protocol
from cogvideox.evaluation.results import EvaluationResults, VideoResult
from cogvideox.untrusted.text_encoding import dump_json

MAX_NAME_BYTES = 255


def export_vbench(results: EvaluationResults, source: Path, folder: Path) -> int:
    """Export the videos of an evaluation, and return their number.

    Videos are linked if the file system allows it, otherwise copied.

    Args:
        source: the folder of the evaluation.

    Raises:
        UserError: a prompt cannot be a file name, two videos would have the same name, or a file cannot be written.
    """
    names = official_names(results)
    paths = {}
    for video in results.videos:
        path = source / video.file
        if not path.is_file():
            if video.errors.get(""):
                continue
            raise UserError(f"cannot export {path}: file not found")
        if {"start", "end"} & video.info.keys():
            raise UserError(f"cannot export a segment of {path}: official tools score whole files; cut it first")
        paths[video.id] = path
    for id, path in paths.items():
        target = folder / "videos" / f"{names[id]}{path.suffix}"
        if target.exists() and target.samefile(path):
            continue
        with atomic_write(target) as temporary:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)
    write_text(folder / "VBench_full_info.json", dump_json(_full_info(results)) + "\n")
    scores = _official_results(results, {id: f"{names[id]}{path.suffix}" for id, path in paths.items()})
    write_text(folder / "results" / "cogvideox_eval_results.json", dump_json(scores) + "\n")
    return len(paths)


def official_names(results: EvaluationResults) -> dict[str, str]:
    """Return the official name without suffix, "PROMPT-INDEX", of each video by id.

    Raises:
        UserError: a prompt cannot be a file name, or two videos would have the same name.
    """
    names: dict[str, str] = {}
    owners: dict[str, VideoResult] = {}
    for video in results.videos:
        name = f"{video.prompt}-{video.sample}"
        if any(part in video.prompt for part in ("/", "\\", "\0", "\n")) or video.prompt.strip(". ") == "":
            raise UserError(f"the prompt {video.prompt!r} cannot be a file name: official layouts name files by prompt")
        if len(name.encode()) > MAX_NAME_BYTES - len(".mp4"):
            raise UserError(f"the prompt {video.prompt[:40]!r}... is too long for a file name of an official layout")
        other = owners.setdefault(name, video)
        if other is not video and other.prompt == video.prompt and other.group == video.group:
            raise UserError(f"two videos would be named {name!r}: each prompt may occur once, with numbered samples")
        names[video.id] = name
    return names


def _full_info(results: EvaluationResults) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for video in results.videos:
        entry = entries.setdefault(video.prompt, {"prompt_en": video.prompt, "dimension": []})
        if video.group and video.group not in entry["dimension"]:
            entry["dimension"].append(video.group)
        auxiliary = video.info.get("auxiliary_info")
        if auxiliary:
            entry.setdefault("auxiliary_info", {})[video.group] = auxiliary
    return list(entries.values())


def _official_results(results: EvaluationResults, files: Mapping[str, str]) -> dict[str, Any]:
    official: dict[str, Any] = {}
    for metric in results.metrics:
        score = results.score(metric.name)
        if score is None:
            continue
        check_protocol(score)
        rows = [
            {"video_path": files[video.id], "video_results": video.measurements[metric.scorer].get(metric.per_video)}
            for video in results.videos
            if video.id in files and metric.scorer in video.measurements and metric.per_video is not None
        ]
        official[metric.name.rpartition("/")[2]] = [score.value, rows]
    official["protocol"] = dict(results.scores[0].protocol) if results.scores else {}
    return official
