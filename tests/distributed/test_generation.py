"""Generation on several ranks equals generation in one process."""

import json
from pathlib import Path

import numpy as np
import pytest

from cogvideox.cli.main import main
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.parallel.cfg_parallel import sequence_degree
from cogvideox.parallel.mesh import Ranks
from cogvideox.video.io import read
from tests import tiny
from tests.distributed.spawn import on_ranks, torchrun

IMAGE = np.random.default_rng(0).integers(255, size=(32, 48, 3), dtype=np.uint8)
CLIP = np.random.default_rng(1).integers(255, size=(17, 32, 48, 3), dtype=np.uint8)


def check(ranks: Ranks, folder: Path, requests: list[dict]) -> None:
    single, several = CogVideoX.from_pretrained(folder, "cpu"), CogVideoX.from_pretrained(folder, ranks=ranks)
    for request in requests:
        expected, actual = (
            pipe.generate("a ball", seed=3, output="float", **request).frames for pipe in (single, several)
        )
        assert np.abs(expected - actual).max() <= 1e-5, f"{request.keys()}: {np.abs(expected - actual).max():.1e}"


REQUESTS = {
    "2b": [
        {},
        {"guidance_scale": 1.0, "num_frames": 13},
        {"sequential_guidance": True, "num_frames": 1},
        {"guidance_interval": (0.0, 0.5), "sampler": "dpm++", "num_inference_steps": 4},
        {"num_frames": 25, "window": 17},
        {"video": CLIP, "num_frames": 25, "extend": True, "window": 17, "overlap": 8},
        {"video": CLIP, "invert": True},
    ],
    "1.5-5b": [{"num_frames": 17}],
    "5b-i2v": [{"image": IMAGE}],
}


@pytest.mark.parametrize("variant", REQUESTS)
@pytest.mark.parametrize(("world", "sequence"), [(2, 1), (2, 2), (4, 2)])
def test_several_ranks_give_the_same_video(world, sequence, variant, tmp_path):
    on_ranks(world, check, tiny.write(tmp_path / "model", variant), REQUESTS[variant], sequence=sequence)


def test_command_line_gives_the_same_video(tmp_path):
    """Rank 0 samples the seed and broadcasts it."""
    arguments = ["generate", "a red ball", "--num-inference-steps", "3", "-o"]
    parallel_file, single_file = tmp_path / "two.mp4", tmp_path / "one.mp4"
    process = torchrun(*arguments, str(parallel_file))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("two.mp4") == 1
    seed = json.loads(parallel_file.with_suffix(".json").read_text())["seed"]
    # Sequential guidance, as on the ranks: a batch of both predictions rounds differently.
    assert main([*arguments, str(single_file), "--seed", str(seed), "--sequential-guidance"]) == 0
    assert np.array_equal(read(parallel_file)[0], read(single_file)[0])


def test_errors_of_the_command_line_are_printed_once(tmp_path):
    process = torchrun("generate", "a red ball", "--num-frames", "8", "-o", str(tmp_path / "x.mp4"))
    assert process.returncode != 0
    assert process.stderr.count("--num-frames 8 is not allowed") == 1
    assert "Traceback" not in process.stderr.split("torch")[0]


def test_sequence_degree_depends_on_guidance_and_heads():
    assert sequence_degree(2, 5, guided=True) == 1
    assert sequence_degree(4, 30, guided=True) == 2
    assert sequence_degree(3, 30, guided=True) == 3
    assert sequence_degree(2, 30, guided=False) == 2
    with pytest.raises(UserError, match=r"4 processes cannot share.*5 attention heads.*; valid numbers: 1, 2, 5, 10"):
        sequence_degree(4, 5, guided=True)
