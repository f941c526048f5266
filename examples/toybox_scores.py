"""Compare toybox models on three sets of held-out prompts, judged from the pixels.

    python examples/toybox_scores.py --models toybox runs/toybox-pretrain-final/model --num-prompts 300 --processes 2
    python examples/toybox_scores.py --sampler dpm++ --num-inference-steps 12 --guidance-scale 5

The sets are those of the toybox suite (`cogvideox.evaluation.toybox.prompts`). Every verdict is appended to the file of
`--results` at once, and a repeated command generates only the videos that are missing. `cogvideox evaluate MODEL
--suite toybox -o OUT` scores the sets from video files, with intervals and a report.
"""

import argparse
import functools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from cogvideox import CogVideoX
from cogvideox.atomic_io import write_text
from cogvideox.errors import PromptError, UserError
from cogvideox.evaluation.toybox.prompts import held_out_prompts
from cogvideox.evaluation.videos import model_hash
from cogvideox.generation.request.builder import build_request
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clip

FACTS = ("color", "shape", "size", "motion", "background", "count", "all")
OPTIONS = ("num_inference_steps", "guidance_scale", "guidance_interval", "sampler", "eta", "height", "width")
"""Options of `CogVideoX.generate` that the command line can change."""


@dataclass(frozen=True)
class Task:
    """A video to generate and judge: a prompt, the facts that it names, and their grammar."""

    model: str
    prompt: str
    facts: Mapping[str, str]
    grammar: str
    seed: int
    options: Mapping[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["toybox"], help="shipped models or model folders")
    parser.add_argument("--num-prompts", type=int, default=300, help="number of prompts of each set")
    parser.add_argument("--seed", type=int, default=100, help="seed of the prompts; video i has seed + i")
    parser.add_argument("--num-inference-steps", type=int, help="default: the model's, as for the next options")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--guidance-interval", type=float, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--sampler", choices=("ddim", "dpm++"))
    parser.add_argument("--eta", type=float)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--processes", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--results", type=Path, default=Path("build/toybox-scores.jsonl"))
    arguments = parser.parse_args()
    changes = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    try:
        specs = {name: read_spec(name) for name in arguments.models}
        for spec in specs.values():
            build_request(spec, "a red ball", **changes)  # raises if an option is not valid for the model
    except UserError as error:
        parser.error(str(error))
    tasks: dict[tuple[str, str], list[Task]] = {
        (name, kind): [
            Task(name, prompt.prompt, prompt.facts, prompt.grammar, arguments.seed + i, changes)
            for i, prompt in enumerate(prompts)
        ]
        for name in arguments.models
        for kind, prompts in held_out_prompts(arguments.num_prompts, arguments.seed).items()
    }
    hashes = {name: model_hash(spec) for name, spec in specs.items()}
    results = Results(arguments.results)
    print(f"| model | set | {' | '.join(FACTS)} |\n|{'---|' * (2 + len(FACTS))}")
    with process_pool(arguments.processes) as pool:
        for (name, kind), group in tasks.items():
            keys = [json.dumps([hashes[name], task.prompt, task.seed, changes]) for task in group]
            missing = [(key, task) for key, task in zip(keys, group) if key not in results.verdicts]
            run = map if pool is None else pool.map
            for (key, _), verdict in zip(missing, run(judge, [task for _, task in missing])):
                results.add(key, verdict)
            scores = fact_accuracies([results.verdicts[key] for key in keys])
            cells = [f"{scores[fact].value:.1%}" if fact in scores else "" for fact in FACTS]
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def process_pool(processes: int) -> "ProcessPoolExecutor | nullcontext[None]":
    """Return a pool of processes with one thread each, or a context of None for a single process."""
    if processes == 1:
        return nullcontext()
    return ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))


def judge(task: Task) -> dict[str, bool]:
    """Generate and judge a video. For a prompt that is empty or too long for the model, all facts are wrong.

    Raises:
        UserError: the video cannot be generated for another reason, such as an invalid option or too little memory.
    """
    pipe = load_pipe(task.model)
    try:
        frames = pipe.generate(task.prompt, seed=task.seed, **task.options).frames
    except PromptError:
        spec = pipe.settings
        frames = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8)
        return dict.fromkeys(judge_clip(torch.from_numpy(frames), task.facts, task.grammar), False)
    return judge_clip(torch.from_numpy(frames), task.facts, task.grammar)


@functools.cache
def load_pipe(name: str) -> CogVideoX:
    """Load a model, once per process."""
    return CogVideoX.from_pretrained(name)


class Results:
    """Verdicts in a JSON Lines file, by key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verdicts: dict[str, dict[str, bool]] = {}
        for line in self._lines():
            row = json.loads(line)
            self.verdicts[row["key"]] = row["verdict"]

    def _lines(self) -> Iterator[str]:
        """Yield the complete lines of the file, and remove a last line that an interrupted run left incomplete."""
        if self.path.exists():
            content = self.path.read_text(encoding="utf-8")
            complete = content[: content.rfind("\n") + 1]
            if complete != content:
                write_text(self.path, complete)
            yield from complete.splitlines()

    def add(self, key: str, verdict: dict[str, bool]) -> None:
        """Append a verdict."""
        self.verdicts[key] = verdict
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "verdict": verdict}) + "\n")


if __name__ == "__main__":
    main()
