"""Processor time of every metric of `cogvideox evaluate`, on one thread.

    python benchmarks/evaluation.py --out build/benchmarks/evaluation.json

Networks have their published sizes and random weights, which take the same time as trained ones. Two workers measure
two videos at a time, so two cores halve the times. Endpoints are not timed. `--tiny` times small clips, for tests.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, environment, write_json

from cogvideox.evaluation.dynamics import features
from cogvideox.evaluation.frechet.distances import frechet_distance, kernel_distance
from cogvideox.evaluation.frechet.features import open_extractor
from cogvideox.evaluation.models import loaders
from cogvideox.evaluation.models.clip import CLIP, VisionTransformer
from cogvideox.evaluation.models.dino import DINO
from cogvideox.evaluation.models.raft import RAFT
from cogvideox.evaluation.models.umt import UMT
from cogvideox.evaluation.reconstruction.metrics import detail, flicker, psnr
from cogvideox.evaluation.reconstruction.structural_similarity import ms_ssim, ssim
from cogvideox.evaluation.scorer import VideoFile
from cogvideox.evaluation.toybox.scorer import temporal_consistency
from cogvideox.evaluation.vbench import rules
from cogvideox.records import Video
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.toybox.judge.judge import judge_clip
from cogvideox.vae.losses.perceptual import LPIPS
from cogvideox.vae.losses.shift_tolerant import ShiftTolerantLPIPS
from cogvideox.video.entropy import temporal_entropy

SLOW = 2.0
"""Metrics that take longer, in seconds, are timed once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/benchmarks/evaluation.json", help="path of the report"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of timings of each metric (3)")
    parser.add_argument("--only", nargs="+", help="time only metrics whose name contains one of these words")
    parser.add_argument("--tiny", action="store_true", help="small clips, and networks of one block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size, make in metrics(Path(folder), tiny=options.tiny):
            if options.only and not any(word in name for word in options.only):
                continue
            measure = make()
            seconds: list[float] = []
            while len(seconds) <= options.rounds:
                start = time.process_time()
                measure()
                seconds.append(time.process_time() - start)
                if seconds[0] > SLOW:  # its warm-up does not matter
                    break
            counted = seconds[1:] or seconds  # the first call warms up
            row = {"metric": name, "size": size, "seconds": statistics.median(counted), "all_seconds": counted}
            print(f"{name:<44} {size:<14} {row['seconds']:.3g} s", flush=True)
            rows.append(row)
    write_json(options.out, {"environment": environment(), "metrics": rows})


def metrics(folder: Path, *, tiny: bool) -> list[tuple[str, str, Callable[[], Callable[[], Any]]]]:
    """Return (name, size of the clip, function that prepares the measurement) of all metrics."""
    rng = np.random.default_rng(0)

    def clip(num_frames: int, height: int, width: int) -> np.ndarray:
        if tiny:
            num_frames, height, width = min(num_frames, 9), min(height, 192), min(width, 192)
        return rng.integers(0, 255, (num_frames, height, width, 3), np.uint8)

    small, square, wide = clip(9, 64, 64), clip(17, 256, 256), clip(49, 480, 720)
    sizes = ["x".join(map(str, frames.shape[:3])) for frames in (small, square, wide)]
    x, y = (torch.from_numpy(clip(17, 256, 256)).permute(3, 0, 1, 2)[None] / 127.5 - 1 for _ in range(2))
    facts = parse_prompt("a red ball moves left on a blue background", "full")
    depth = 1 if tiny else 0

    def perceptual(network: torch.nn.Module) -> Callable[[], Any]:
        for parameter in network.parameters():
            parameter.data = torch.randn_like(parameter) * 0.05
        pairs = list(zip(x[0].transpose(0, 1).split(8), y[0].transpose(0, 1).split(8)))
        return lambda: [network(first, second) for first, second in pairs]

    def saved(network: torch.nn.Module, name: str) -> Path:
        torch.save(network.state_dict(), folder / name)
        return folder / name

    def umt() -> Callable[[], Any]:
        network = UMT(1024, depth or 24, 16, 16, 16 * 14**2, 400)
        lines = "".join(f"action {index}\t{index}\n" for index in range(400))
        (folder / "classes.txt").write_text(lines, encoding="utf-8")
        classify = loaders.umt_actions(saved(network, "umt.pth"), folder / "classes.txt")
        return lambda: rules.human_action(wide, "action 0", classify)

    def style() -> Callable[[], Any]:
        network = CLIP(VisionTransformer(768, depth or 12, 32, 49, 512), 49408, 77, 512, depth or 12, 224)
        (folder / "merges.txt").write_text("#version: 0.2\na n\n", encoding="utf-8")
        compare = loaders.clip_similarity(saved(network, "clip.pt"), folder / "merges.txt")
        return lambda: rules.appearance_style(wide, "oil painting", compare)

    def flow(pairs: int) -> Callable[[], Any]:
        estimate = loaders.raft_flow(saved(RAFT(), "raft.pth"))
        return lambda: list(estimate(wide[: pairs + 1]))

    def consistency() -> Callable[[], Any]:
        embed = loaders.dino_embeddings(saved(DINO(768, depth or 12, 12, 16, 196), "dino.pth"))
        return lambda: features.consistency(embed(wide))

    def judged() -> Callable[[], Any]:
        from cogvideox.evaluation.judge.mtscore import build_message

        Video(wide, 8.0).save(folder / "wide.mp4")
        return lambda: build_message(VideoFile(folder / "wide.mp4"), "0")

    a, b = rng.normal(size=(500, 400)), rng.normal(size=(500, 400))
    random = open_extractor("random")
    judge_input = torch.from_numpy(small)
    resized = features.resize_long_side(wide)
    return [
        ("toybox: facts", sizes[0], lambda: lambda: judge_clip(judge_input, facts, "full")),
        ("toybox: temporal consistency", sizes[0], lambda: lambda: temporal_consistency(judge_input)),
        ("reconstruction: PSNR", sizes[1], lambda: lambda: psnr(x, y)),
        ("reconstruction: flicker", sizes[1], lambda: lambda: flicker(x)),
        ("reconstruction: detail", sizes[1], lambda: lambda: detail(x)),
        ("reconstruction: SSIM", sizes[1], lambda: lambda: ssim(x, y)),
        ("reconstruction: MS-SSIM", sizes[1], lambda: lambda: ms_ssim(x, y)),
        ("reconstruction: LPIPS, VGG16", sizes[1], lambda: perceptual(LPIPS())),
        ("reconstruction: ST-LPIPS, AlexNet", sizes[1], lambda: perceptual(ShiftTolerantLPIPS("alex"))),
        ("distribution: random features", sizes[1], lambda: lambda: random(square)),
        ("distribution: Frechet distance", "2x500x400", lambda: lambda: frechet_distance(a, b)),
        ("distribution: kernel distance", "2x500x400", lambda: lambda: kernel_distance(a, b)),
        ("vbench: human action, UMT", sizes[2], umt),
        ("vbench: appearance style, CLIP", sizes[2], style),
        ("vbench: dynamic degree, RAFT, one pair", sizes[2], lambda: flow(1)),
        ("vbench: dynamic degree, DIS", sizes[2], lambda: lambda: rules.dynamic_degree(wide, 8.0, loaders.dis_flow())),
        ("devil: subject consistency, DINO", sizes[2], consistency),
        ("devil: SSIM of neighbors", sizes[2], lambda: lambda: features.neighbor_similarity(resized)),
        ("devil: hash distance", sizes[2], lambda: lambda: features.hash_distance(wide)),
        ("devil: temporal entropy", sizes[2], lambda: lambda: temporal_entropy(wide, 8.0)),
        ("mtscore: request, without the judge", sizes[2], judged),
    ]


if __name__ == "__main__":
    with torch.inference_mode():
        main()
