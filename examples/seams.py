"""Discontinuities of long videos of the shipped model at the boundaries of windows.

    python examples/seams.py --num-seeds 2
    python examples/seams.py --num-seeds 2 --overlap 4
    python examples/seams.py --num-seeds 2 --chunk 23

A jump is the mean difference of two consecutive frames, divided by the median of these differences in the video.
Windows meet between two latent frames, where videos without windows also have larger differences; these are the
baseline.
"""

import argparse

import numpy as np

from cogvideox import CogVideoX, geometry

PROMPTS = (
    "a large red ball moves right on a white background",
    "a small blue cube drifts up on a pink floor",
    "a purple cone stays still on a gray surface",
    "a green ball moves left on a white floor",
    "a yellow cube moves down on a blue floor",
    "a red cube stays still on a pink floor",
    "a small green cone moves right on a gray floor",
    "a blue ball stays still on a white floor",
)


def jumps(frames: np.ndarray) -> np.ndarray:
    """Return the mean difference of each frame to the previous one, divided by the median difference."""
    differences = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    return differences / np.median(differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--num-frames", type=int, default=89)
    parser.add_argument("--overlap", type=int, default=8, choices=(4, 8), help="frames shared by windows of 9 frames")
    parser.add_argument("--chunk", type=int, default=geometry.CHUNK, help="latent frames per decoded chunk; 23 is all")
    parser.add_argument("--num-inference-steps", type=int, help="default: the model's")
    options = parser.parse_args()

    geometry.CHUNK = options.chunk
    pipe = CogVideoX.from_pretrained("toybox")
    step = 12 - options.overlap  # new frames per window: three latent frames are 12 frames, except at the start
    rows = {"at once": [], "in windows": []}
    for prompt in PROMPTS[: options.num_prompts]:
        for seed in range(options.num_seeds):
            values = {"seed": seed, "num_inference_steps": options.num_inference_steps}
            short = pipe.generate(prompt, **values)
            rows["at once"].append(jumps(short.frames)[4:5])
            long = pipe.generate(prompt, **values, num_frames=options.num_frames, window=9, overlap=options.overlap)
            rows["in windows"].append(jumps(long.frames)[8::step])  # the first window ends with the ninth frame
    print("| frames | mean jump | videos above 1.5 | highest of a video |")
    print("|---|---|---|---|")
    for name, videos in rows.items():
        means = np.array([seams.mean() for seams in videos])
        print(f"| {name} | {means.mean():.2f} | {(means > 1.5).sum()} of {len(means)} | {means.max():.2f} |")


if __name__ == "__main__":
    main()
