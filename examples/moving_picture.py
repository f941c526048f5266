"""Make the animation of the README: videos of the shipped model side by side, with their prompts.

    python examples/moving_picture.py --out docs/results/toybox.gif

The prompts are the first prompts of the page written by `examples/toybox_page.py`; they are not selected by result.
"""

import argparse
from pathlib import Path

import numpy as np

from cogvideox import CogVideoX, Video
from cogvideox.toybox.captions.caption import sample_prompts
from cogvideox.video.sheet import side_by_side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-prompts", type=int, default=12, help="at most 36")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--scale", type=int, default=3, help="pixels of the animation per pixel of a video")
    parser.add_argument("--out", type=Path, default=Path("toybox.gif"))
    options = parser.parse_args()

    pipe = CogVideoX.from_pretrained("toybox")
    prompts = [prompt for prompt, _ in sample_prompts(36, 0, split="held_out")][: options.num_prompts]
    videos = [pipe.generate(prompt, seed=seed).frames for seed, prompt in enumerate(prompts)]
    enlarged = np.stack(videos).repeat(options.scale, axis=2).repeat(options.scale, axis=3)
    frames = [side_by_side(enlarged[:, [i]], options.columns, prompts, font_size=14) for i in range(len(videos[0]))]
    frames += frames[-1:] * 4  # pause for half a second before it repeats
    Video(np.stack(frames), fps=8.0).save(options.out)


if __name__ == "__main__":
    main()
