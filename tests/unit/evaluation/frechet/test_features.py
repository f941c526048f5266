"""Features tell sets of videos apart, and a set is compared with the evaluation of another."""

from pathlib import Path

import pytest

from cogvideox.errors import UserError
from cogvideox.evaluation.frechet.distances import frechet_distance
from cogvideox.evaluation.frechet.features import check_extractor, open_extractor
from cogvideox.evaluation.run import evaluate
from cogvideox.evaluation.suite import SuiteOptions
from cogvideox.evaluation.suites.registry import build_suite
from cogvideox.evaluation.videos import videos_of_folder
from cogvideox.records import Video
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.sampler import sample_scene


def clips(folder: Path, seeds: range, **facts: str) -> Path:
    for seed in seeds:
        frames = render_scene(sample_scene(seed, **facts), num_frames=9, height=64, width=64, fps=8.0).numpy()
        Video(frames, 8.0, {"prompt": f"scene {seed}"}).save(folder / f"{seed}.mp4")
    return folder


@pytest.mark.parametrize("name", ["random", pytest.param("vae:toybox", marks=pytest.mark.slow)])
def test_motion_and_content_move_the_features(name: str, tmp_path: Path):
    import numpy as np

    extract, features = open_extractor(name), {}
    sets = {
        "a": clips(tmp_path / "a", range(16)),
        "b": clips(tmp_path / "b", range(16, 32)),
        "pink": clips(tmp_path / "pink", range(16), background="pink"),
    }
    for kind, folder in sets.items():
        features[kind] = np.stack([extract(Video.load(file).frames).numpy() for file in sorted(folder.glob("*.mp4"))])
    assert len({check_extractor(name)["features"], "random", "vae:toybox"}) == 2
    assert frechet_distance(features["a"], features["pink"]) > 1.5 * frechet_distance(features["a"], features["b"])
    frames = render_scene(sample_scene(3, motion="left"), num_frames=9, height=64, width=64, fps=8.0).numpy()
    stretched = np.repeat(frames[:1], 9, axis=0)
    assert np.abs((extract(frames) - extract(stretched)).numpy()).max() > 1e-4


def test_a_set_is_compared_with_the_evaluation_of_another(tmp_path: Path):
    plain = build_suite("distribution", SuiteOptions())
    real, generated = clips(tmp_path / "real", range(12)), clips(tmp_path / "generated", range(12), background="pink")
    reference = evaluate(videos_of_folder(plain, real), plain, tmp_path / "out")
    assert not reference.scores and len(reference.videos[0].measurements["frechet"]["features"]) == 80
    options = SuiteOptions(settings={"reference": str(tmp_path / "out")})
    suite = build_suite("distribution", options)
    assert [item.prompt for item in suite.items] == [video.prompt for video in reference.videos]
    same = evaluate(videos_of_folder(suite, real), suite, tmp_path / "same")
    other = evaluate(videos_of_folder(suite, generated), suite, tmp_path / "other")
    distance = {name: other.score(f"frechet/{name}") for name in ("frechet", "kernel", "extrapolated")}
    assert all(score is not None for score in distance.values())
    first, second = same.score("frechet/frechet"), distance["frechet"]
    assert first is not None and second is not None and abs(first.value) < 1e-6 < second.value
    assert second.interval is not None and second.interval[0] < second.value < second.interval[1]
    assert second.protocol["num_reference_videos"] == 12 and "jackknife" in second.protocol["interval"]
    with pytest.raises(UserError, match="different features"):
        build_suite("distribution", SuiteOptions(settings={**options.settings, "features": "vae:toybox"}))


def test_unknown_features_are_an_error():
    for name in ("i3d", "vae:", "efficientnet:missing.pth"):
        with pytest.raises(UserError, match=r"features|not found"):
            check_extractor(name)
