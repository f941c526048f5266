"""Small videos of two models, and a study of them."""

from pathlib import Path

import numpy as np

from cogvideox.evaluation.human.study.plan import PlanSettings, plan_study
from cogvideox.evaluation.human.study.protocol import Study
from cogvideox.records import Video

NAMES = ("good-model-v7", "secret-rival")


def write_videos(root: Path, num_prompts: int = 6) -> dict[str, Path]:
    """Write the videos of two models, with different sizes and metadata, and return their folders."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for prompt in range(num_prompts):
            frames = rng.integers(0, 256, (8 + index, 36, 48 + 2 * index, 3), dtype=np.uint8)
            video = Video(frames, 8.0, {"prompt": f"prompt {prompt}", "model": name})
            video.save(root / name / f"{name}-{prompt}.mp4")
    return {name: root / name for name in NAMES}


def small_study(folder: Path, mode: str, num_prompts: int = 6, **settings) -> Study:
    """Plan a study in `folder/study`."""
    models = write_videos(folder / "videos", num_prompts)
    settings = {"training": False, "gold_fraction": 0.2, **settings}
    return plan_study(models, folder / "study", PlanSettings(mode=mode, **settings))
