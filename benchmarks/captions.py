"""Facts in the captions of each stage, on rendered clips with ground truth: recall and false facts.

python benchmarks/captions.py --out build/captions.json [--model MODEL.gguf ...]

Captions are written from the pixels of encoded videos. Facts (color, shape, size, motion, background) are extracted
from captions by the parser of toybox prompts. Results are kept in --work, so an interrupted run resumes.
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
from cogvideox.llm.local import LlamaCpp
from cogvideox.llm.models import ModelConfig
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.video import io

FACTS = ("color", "shape", "size", "motion", "background")


def render(folder: Path, num_clips: int) -> list[Scene]:
    """Write missing clips, and return all scenes."""
    rng = np.random.default_rng(17)
    scenes = [sample_scene(rng, "core", split="all") for _ in range(num_clips)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        if not (path := folder / f"{number:04d}.mp4").is_file():
            io.write(path, np.asarray(render_scene(scene, num_frames=17, height=96, width=144)), 8.0)
    return scenes


def count_facts(captions: dict[str, str], scenes: list[Scene]) -> dict[str, Any]:
    """Return recall (of all true facts) and false facts (of all stated facts), with 95 % Wilson intervals."""
    correct, false, total = dict.fromkeys(FACTS, 0), 0, 0
    for number, scene in enumerate(scenes):
        stated = parse_prompt(captions.get(f"{number:04d}.mp4", ""), "core")
        for name, word in scene.facts.items():
            total += 1
            correct[name] += stated.get(name) == word
            false += name in stated and stated[name] != word
    num_correct, num_stated = sum(correct.values()), sum(correct.values()) + false
    return {
        "clips": len(scenes),
        "recall": num_correct / total,
        "recall_interval": wilson(num_correct, total),
        "false": false / max(1, num_stated),
        "false_interval": wilson(false, max(1, num_stated)),
        "recall_by_fact": {name: count / len(scenes) for name, count in correct.items()},
    }


def measure(
    folder: Path, output: Path, pipeline_config: CaptionPipelineConfig, scenes: list[Scene], limit: int
) -> dict[str, Any]:
    """Caption the clips, and return the facts of each stage and the tokens and time of the run."""
    start = time.perf_counter()
    result = caption_folder(folder, output, pipeline_config, limit=limit, on_progress=lambda p: print(p, flush=True))
    captions = captions_by_stage(output)
    rows = parquet.read_table(output / "captions.parquet").to_pylist()
    return {
        "stages": {stage: count_facts(captions.get(stage, {}), scenes[:limit]) for stage in pipeline_config.stages},
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
    parser.add_argument("--model", type=Path, action="append", default=[], help="GGUF file of a summarizer")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--model-clips", type=int, default=24, help="clips that each model summarizes")
    options = parser.parse_args()
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
        summary = StageConfig("model", "summarizer", max_words=60, decoding=Sampling(max_tokens=100))
        with_model = replace(pipeline_config, models={"summarizer": model}, summary=summary)
        output = options.work / path.stem
        results[path.stem] = measure(options.work / "clips", output, with_model, scenes, options.model_clips)
        write_json(options.out, {"cpu": cpu_name(), "results": results})
    write_json(options.out, {"cpu": cpu_name(), "results": results})


if __name__ == "__main__":
    main()
