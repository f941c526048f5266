"""Facts in the captions of each stage, on rendered clips with ground truth: recall and false facts.

python benchmarks/captions.py --out build/captions.json [--model MODEL ...] [--captioner FOLDER]

Captions are written from the pixels of encoded videos. Facts (color, shape, size, motion, background) are extracted
from captions by the parser of toybox prompts. Results are kept in --work, so an interrupted run resumes. A model is a
GGUF file or a model folder, such as a fine-tuned summarizer. `--captioner` measures an end-to-end captioner on scenes
that training does not contain: new scenes, and new compositions of color, shape and motion.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import cpu_name, write_json
from pyarrow import parquet

from cogvideox.curation.captions.config import CaptionPipelineConfig, StageConfig
from cogvideox.curation.captions.quality.qa import wilson
from cogvideox.curation.captions.quality.report import captions_by_stage
from cogvideox.curation.captions.run import caption_folder
from cogvideox.llm.chat import Sampling
from cogvideox.llm.local import LlamaCpp, Transformers
from cogvideox.llm.models import ModelConfig
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.judge.judge import fact_accuracies
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.captioner.fact_head import sorted_scene
from cogvideox.training.captioner.scores import scene_facts, stated_facts
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.video import io

FACTS = ("color", "shape", "size", "motion", "background")
FOUR_FACTS = ("color", "shape", "motion", "count")


def render(folder: Path, num_clips: int) -> list[Scene]:
    """Write missing clips, and return all scenes."""
    rng = np.random.default_rng(17)
    scenes = [sample_scene(rng, "core", split="all") for _ in range(num_clips)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        if not (path := folder / f"{number:04d}.mp4").is_file():
            io.write(path, np.asarray(render_scene(scene, num_frames=17, height=96, width=144)), 8.0)
    return scenes


def count_facts(captions: dict[str, str], scenes: list[Scene], unusable: set[str]) -> dict[str, Any]:
    """Return recall (of all true facts) and false facts (of all stated facts), with 95 % Wilson intervals.

    `usable_recall` counts the facts of unusable captions as not stated; its interval is a bootstrap over clips.
    """
    correct, false, total, usable = dict.fromkeys(FACTS, 0), 0, 0, []
    for number, scene in enumerate(scenes):
        name = f"{number:04d}.mp4"
        stated = parse_prompt(captions.get(name, ""), "core")
        right = {fact: stated.get(fact) == word for fact, word in scene.facts.items()}
        usable.append(0.0 if name in unusable else sum(right.values()) / len(right))
        for fact, word in scene.facts.items():
            total += 1
            correct[fact] += right[fact]
            false += fact in stated and stated[fact] != word
    num_correct, num_stated = sum(correct.values()), sum(correct.values()) + false
    return {
        "clips": len(scenes),
        "recall": num_correct / total,
        "recall_interval": wilson(num_correct, total),
        "usable_recall": float(np.mean(usable)),
        "usable_recall_interval": bootstrap(usable),
        "false": false / max(1, num_stated),
        "false_interval": wilson(false, max(1, num_stated)),
        "recall_by_fact": {name: count / len(scenes) for name, count in correct.items()},
    }


def bootstrap(values: list[float]) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean from 10,000 resamples."""
    rng = np.random.default_rng(0)
    means = np.array(values)[rng.integers(len(values), size=(10_000, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def measure_captioner(folder: Path, num_scenes: int, work: Path) -> dict[str, Any]:
    """Caption videos of 9 to 13 frames with `cogvideox caption`.

    Returns:
        the fraction of facts stated correctly, by split.
    """
    results = {}
    for split in ("training", "held_out"):
        scenes, clips = [], work / f"clips-{split}"
        clips.mkdir(parents=True, exist_ok=True)
        for number in range(num_scenes):
            num_frames = (9, 11, 13)[number % 3]
            seconds = (num_frames - 1) / 8
            scenes.append(
                sorted_scene(sample_scene(HELD_OUT_SEED + 10**6 + number, "pair", split=split, seconds=seconds))
            )
            if not (path := clips / f"{number:04d}.mp4").is_file():
                frames = render_scene(scenes[-1], num_frames=num_frames, height=96, width=96)
                io.write(path, np.asarray(frames), 8.0)
        start, output = time.perf_counter(), work / f"captioned-{split}"
        direct = StageConfig("captioner", path=folder, batch_size=16)
        caption_folder(clips, output, CaptionPipelineConfig(direct=direct, measure=()))
        captions = captions_by_stage(output)["direct"]
        verdicts = [
            stated_facts(captions.get(f"{i:04d}.mp4", ""), scene_facts(scene)) for i, scene in enumerate(scenes)
        ]
        four = [[right for name, right in v.items() if name.split()[0] in FOUR_FACTS] for v in verdicts]
        per_clip = [sum(facts) / len(facts) for facts in four]
        results[split] = {
            "clips": num_scenes,
            "seconds": time.perf_counter() - start,
            "four_facts": sum(map(sum, four)) / sum(map(len, four)),
            "four_facts_by_clip": float(np.mean(per_clip)),
            "four_facts_by_clip_interval": bootstrap(per_clip),
            "by_fact": {
                name: [score.value, *(score.interval or ())] for name, score in fact_accuracies(verdicts).items()
            },
        }
    return results


def measure(
    folder: Path, output: Path, pipeline_config: CaptionPipelineConfig, scenes: list[Scene], limit: int
) -> dict[str, Any]:
    """Caption the clips, and return the facts of each stage and the tokens and time of the run."""
    start = time.perf_counter()
    result = caption_folder(folder, output, pipeline_config, limit=limit, on_progress=lambda p: print(p, flush=True))
    captions = captions_by_stage(output)
    rows = parquet.read_table(output / "captions.parquet").to_pylist()
    rows = [row for row in rows if int(row["source"].removesuffix(".mp4")) < limit]

    def facts(stage: str) -> dict[str, Any]:
        unusable = {row["source"] for row in rows if row[f"caption.{stage}_problems"] or not row[f"caption.{stage}"]}
        return count_facts(captions.get(stage, {}), scenes[:limit], unusable)

    return {
        "stages": {stage: facts(stage) for stage in pipeline_config.stages},
        "statuses": result.statuses,
        "problems": result.problems,
        "tokens": sum(row["caption.summary_tokens"] or 0 for row in rows),
        "model_seconds": sum(row["caption.summary_seconds"] or 0 for row in rows),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/captions.json"))
    parser.add_argument("--work", type=Path, default=Path("build/captions"), help="folder of clips and results")
    parser.add_argument("--model", type=Path, action="append", default=[], help="GGUF file or folder of a summarizer")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--model-clips", type=int, default=24, help="clips that each model summarizes")
    parser.add_argument("--captioner", type=Path, help="folder of an end-to-end captioner")
    options = parser.parse_args()
    if options.captioner is not None:
        results = measure_captioner(options.captioner, options.clips, options.work)
        write_json(options.out, {"cpu": cpu_name(), "captioner": results})
        return
    scenes = render(options.work / "clips", options.clips)
    pipeline_config = CaptionPipelineConfig(
        short=StageConfig("toybox"),
        frames=StageConfig("toybox"),
        summary=StageConfig("rules"),
        interval=1.0,
        measure=(),
    )
    results = {"rules": measure(options.work / "clips", options.work / "rules", pipeline_config, scenes, options.clips)}
    for path in options.model:
        model = ModelConfig(llama_cpp=LlamaCpp(path, threads=1))
        if path.is_dir():
            model = ModelConfig(transformers=Transformers(path, batch_size=8))
        summary = StageConfig("model", "summarizer", max_words=60, decoding=Sampling(max_tokens=100))
        with_model = replace(pipeline_config, models={"summarizer": model}, summary=summary)
        output = options.work / path.stem
        results[path.stem] = measure(options.work / "clips", output, with_model, scenes, options.model_clips)
        write_json(options.out, {"cpu": cpu_name(), "results": results})
    write_json(options.out, {"cpu": cpu_name(), "results": results})


if __name__ == "__main__":
    main()
