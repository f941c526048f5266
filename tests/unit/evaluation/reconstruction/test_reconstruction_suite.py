"""The reconstruction suite on rendered clips and on a folder."""

from pathlib import Path

import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.reconstruction.metrics import psnr
from cogvideox.evaluation.run import evaluate
from cogvideox.evaluation.suite import SuiteOptions
from cogvideox.evaluation.suites.reconstruction import videos_to_reconstruct
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.pretrained.model_folder import load
from cogvideox.records import Video
from cogvideox.video.transform import to_model

SIZE = {"num_frames": "9", "height": "64", "width": "64"}


def test_rendered_clips_are_reconstructed(tmp_path: Path):
    suite, videos = videos_to_reconstruct(
        build_suite("reconstruction", SuiteOptions(num_prompts=8, settings=SIZE)), "toybox", tmp_path
    )
    results = evaluate(videos, suite, tmp_path)
    score = results.score("reconstruction/psnr")
    assert score is not None and score.value > 20 and score.interval is not None
    assert score.protocol["weights"] != "unknown" and score.protocol["scorer"]["size"] == [9, 64, 64]
    frames = to_model(torch.from_numpy(Video.load(tmp_path / "videos/0.mp4").frames))[None]
    vae = load("toybox").vae
    expected = psnr(vae.decode(vae.encode(frames).mean), frames).item()
    assert results.videos[0].measurements["reconstruction"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert results.score("reconstruction/ms_ssim") is None  # the frames are too small
    assert results.score("reconstruction/frechet") is not None
    assert Video.load(tmp_path / "reconstructions/0.mp4").frames.shape == (9, 64, 128, 3)


def test_clips_that_are_too_short_fail(tmp_path: Path):
    source = tmp_path / "videos"
    for length in (5, 9):
        Video(torch.randint(0, 255, (length, 64, 96, 3), dtype=torch.uint8).numpy(), 8.0).save(source / f"{length}.mp4")
    options = SuiteOptions(settings={**SIZE, "videos": str(source)})
    suite, videos = videos_to_reconstruct(build_suite("reconstruction", options), "toybox", tmp_path / "out")
    results = evaluate(videos, suite, tmp_path / "out")
    assert results.scores[0].protocol["num_videos"] == 1 and results.scores[0].protocol["num_failures"] == 1
    assert "has 5 frames, and the protocol needs 9" in results.videos[0].errors["reconstruction"]


def test_a_segment_of_a_file_is_reconstructed(tmp_path: Path):
    source, frames = tmp_path / "videos", torch.randint(0, 255, (20, 64, 64, 3), dtype=torch.uint8).numpy()
    Video(frames, 8.0).save(source / "x.mp4")
    (source / "metadata.csv").write_text("file_name,text,start,end\nx.mp4,a,1,\nx.mp4,b,,\n", encoding="utf-8")
    options = SuiteOptions(settings={**SIZE, "videos": str(source), "features": ""})
    suite, videos = videos_to_reconstruct(build_suite("reconstruction", options), "toybox", tmp_path / "out")
    evaluate(videos, suite, tmp_path / "out")
    segment, whole = (Video.load(tmp_path / f"out/reconstructions/{i}.mp4").frames[:, :, :64] for i in (0, 1))
    expected = Video.load(source / "x.mp4").frames.astype(float)
    for shown, start in ((segment, 8), (whole, 0)):  # encoded again, so only similar
        errors = [abs(shown - expected[first : first + 9]).mean() for first in (start, 4)]
        assert errors[0] < 0.5 * errors[1]


def test_the_default_is_the_protocol_of_table_2():
    (scorer,) = build_suite("reconstruction", SuiteOptions()).scorers
    assert scorer.settings()["size"] == [17, 256, 256]
    names = {metric.name for metric in scorer.metrics}
    assert {"reconstruction/psnr", "reconstruction/ms_ssim", "reconstruction/flicker"} <= names


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": "9"}, "no setting size"), ({"height": "big"}, "whole number"), ({"lpips_trunk": "a"}, "two files")],
)
def test_wrong_settings_are_errors(settings: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        build_suite("reconstruction", SuiteOptions(settings=settings))
