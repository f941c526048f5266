"""CLIP similarity of videos and prompts with a tiny CLIP of random weights, through the suites of a folder."""

import numpy as np
import pytest
import torch

from cogvideox.cli.main import main
from cogvideox.evaluation.models.clip import CLIP, VisionTransformer, load_clip, prepare
from cogvideox.evaluation.models.clip_tokenizer import CLIPTokenizer
from cogvideox.evaluation.results import EvaluationResults
from cogvideox.records import Video


def test_the_similarity_of_videos_and_captions(tmp_path):
    generator = torch.Generator().manual_seed(0)
    network = CLIP(VisionTransformer(64, 1, 32, 4, 16), 516, 10, 64, 1, 64)
    state = {
        name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in network.state_dict().items()
    }
    torch.save(state, tmp_path / "clip.pt")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na n\nt h\n", encoding="utf-8")
    folder, rng = tmp_path / "videos", np.random.default_rng(0)
    captions = ["a red ball", "the can that is much longer than the number of tokens"]
    for index, caption in enumerate(captions):
        Video(rng.integers(0, 255, (20, 64, 96, 3), np.uint8), 8.0).save(folder / f"{index}.mp4")
        (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    model = f"text=clip:{tmp_path / 'clip.pt'},{tmp_path / 'merges.txt'}"
    arguments = ["evaluate", str(folder), "--suite", "distribution", "-o", str(tmp_path / "out"), "--set", model]
    assert main(arguments) == 0
    results = EvaluationResults.load(tmp_path / "out")
    network, tokenizer = load_clip(tmp_path / "clip.pt"), CLIPTokenizer.load(tmp_path / "merges.txt")
    for video, caption in zip(results.videos, captions):
        frames = Video.load(folder / f"{video.id}.mp4").frames
        chosen = frames[[0, 2, 3, 5, 7, 9, 10, 12, 14, 16, 17, 19]]
        tokens = tokenizer([caption], 10, truncate=True)
        expected = network.similarity(prepare(chosen, 64), tokens).mean().item() / 100
        assert video.measurements["clip"]["similarity"] == pytest.approx(expected, abs=2e-6)
    score = results.score("clip/text_similarity")
    assert score is not None and score.protocol["num_videos"] == 2 and score.protocol["scorer"]["model"] == "clip"
