"""Curation of a small folder: every file ends as rows, and only what is missing or changed is computed."""

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from pyarrow import ArrowInvalid, parquet

pytest.importorskip("cv2")
pytest.importorskip("scenedetect")

from cogvideox import config
from cogvideox.curation.manifest import read_manifest, stage_records
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.run import curate
from cogvideox.curation.signals.registry import SIGNALS
from cogvideox.curation.stage import Column
from cogvideox.curation.stages.cut import Cut
from cogvideox.curation.stages.duplicates import Duplicates
from cogvideox.curation.stages.split import Split
from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.video import io, stream
from tests.unit.curation.raw_files import FPS, make_raw, shot

RECIPE = Recipe(signals={"phash": {}, "stillness": {}})


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return make_raw(tmp_path_factory.mktemp("curate") / "raw")


@pytest.fixture(scope="module")
def output(raw) -> Path:
    curate(raw, raw.parent / "out", RECIPE)
    return raw.parent / "out"


def rows(output: Path) -> dict[tuple[str, int | None], dict]:
    return {(row["source"], row["index"]): row for row in read_manifest(output).to_pylist()}


def test_every_file_ends_as_clips_or_with_a_reason(output):
    manifest_rows = rows(output)
    verdicts = {key: (row["status"], row["stage"], row["reason"]) for key, row in manifest_rows.items()}
    assert {key for key, (status, _, _) in verdicts.items() if status == "ok"} == {
        ("edited.mp4", 0),
        ("edited.mp4", 1),
        ("edited.mp4", 2),
        ("long.mp4", 0),
        ("one.mp4", 0),
        ("deeper/photo.png", 0),
    }
    assert verdicts["other.mp4", None] == ("dropped", "probe", "an exact copy of one.mp4")
    assert verdicts["empty.mp4", None] == ("failed", "probe", "it is empty")
    for name, reason in (("letter", "damaged"), ("truncated", "truncated"), ("sound", "contains no video")):
        status, stage, text = verdicts[f"{name}.mp4", None]
        assert (status, stage) == ("failed", "probe")
        assert reason in text
    assert verdicts["short.mp4", 0] == ("dropped", "split", "shorter than 1 s")
    assert verdicts["small.mp4", 0] == ("dropped", "duplicates", "a near-duplicate of one.mp4")
    assert manifest_rows["small.mp4", 0]["duplicate_of"] == manifest_rows["one.mp4", 0]["id"]


def test_clips_of_an_edited_film_have_exact_times(output):
    clips = [row for (source, _), row in rows(output).items() if source == "edited.mp4"]
    assert [(row["begins_with"], row["ends_with"]) for row in clips] == [
        ("start", "cut"),
        ("cut", "dissolve"),
        ("dissolve", "end"),
    ]
    assert [clips[0]["start"], clips[0]["end"], clips[1]["start"]] == [0.0, 2.0, 2.0]
    assert clips[1]["end"] == pytest.approx((32 + 40 - 8) / 16, abs=0.13)
    assert clips[2]["end"] == pytest.approx((32 + 40 + 30 - 8) / 16)
    for row in clips:
        times = [frame.time for frame in stream.frames(output.parent / "raw/edited.mp4", row["start"], row["end"])]
        assert len(times) == row["num_frames"]
        assert times[0] == row["start"]


def test_second_run_computes_nothing_and_one_changed_parameter_its_stage_only(raw, output, tmp_path):
    before = read_manifest(output)
    assert curate(raw, output, RECIPE).computed == {}
    changed = replace(RECIPE, signals={"phash": {}, "stillness": {"frozen_difference": 2.0}})
    assert set(curate(raw, output, changed).computed) == {"stillness", "decode"}
    # Clips that the changed split leaves as they are keep their measurements.
    fewer = curate(raw, output, replace(RECIPE, split=Split(min_seconds=0.2)))
    assert fewer.computed == {"split": 6, "cut": 1, "phash": 1, "stillness": 1, "decode": 1}
    assert curate(raw, output, RECIPE).computed == {}
    assert read_manifest(output).equals(before)


def test_renamed_files_are_not_measured_again(raw, tmp_path):
    folder = make_raw(tmp_path / "raw")
    curate(folder, tmp_path / "out", RECIPE)
    (folder / "long.mp4").rename(folder / "longer.mp4")
    assert curate(folder, tmp_path / "out", RECIPE).computed == {"probe": 1}


def test_a_recipe_reproduces_the_data_set(raw, output, tmp_path):
    recipe = config.load(Recipe, output / "recipe.yaml")
    curate(raw, tmp_path / "out", recipe)
    assert read_manifest(tmp_path / "out").equals(read_manifest(output))
    assert stage_records(read_manifest(output))["split"]["parameters"]["min_seconds"] == 1.0


def test_job_array_and_worker_processes_give_the_same_rows(raw, output, tmp_path):
    for rank in (1, 0):
        result = curate(raw, tmp_path / "jobs", RECIPE, shard=Shard(rank, 2))
        assert result.complete == (rank == 0)
    assert read_manifest(tmp_path / "jobs").equals(read_manifest(output))
    curate(raw, tmp_path / "workers", RECIPE, workers=2)
    assert read_manifest(tmp_path / "workers").equals(read_manifest(output))


def test_a_job_array_is_complete_only_if_all_jobs_did_this_work(tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed in range(2):
        io.write(folder / f"{seed}.mp4", shot(seed, 20), FPS)

    def run(rank: int, **options) -> bool:
        return curate(folder, tmp_path / "out", RECIPE, shard=Shard(rank, 2), **options).complete

    assert [run(rank, stage="split") for rank in (0, 1)] == [False, True]
    assert [run(rank) for rank in (0, 1)] == [False, True]
    with monkeypatch.context() as patch:
        patch.setattr("cogvideox.curation.run.run_feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(1)
    assert [run(0), run(0, retry_failed=True), run(1)] == [False, False, True]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_links_to_nothing_are_ignored_and_the_raw_folder_is_not_written_to(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    io.write(folder / "a.mp4", shot(1, 20), FPS)
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert curate(folder, tmp_path / "out", RECIPE).ignored == ["gone.mp4"]
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="is the folder with the raw files: choose another"):
        curate(folder, folder / "../raw", RECIPE)
    assert sorted(folder.iterdir()) == before


def test_embeddings_find_duplicates_without_hashes_and_unknown_columns_are_errors(tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed in range(2):
        io.write(folder / f"{seed}.mp4", shot(seed, 20), FPS)
    monkeypatch.setitem(SIGNALS, "same", Same)
    recipe = Recipe(signals={"same": {}}, duplicates=Duplicates(embedding="same.embedding"))
    assert curate(folder, tmp_path / "out", recipe).counts == {"ok": 1, "dropped": 1}
    recipe = replace(recipe, duplicates=Duplicates(embedding="same.embeding"))
    with pytest.raises(UserError, match=r"same.embeding is not a column .* available: same.embedding"):
        curate(folder, tmp_path / "out", recipe)


@dataclass(frozen=True)
class Same:
    """A signal that gives every clip the same embedding."""

    name = "same"
    version = 1
    columns = (Column("same.embedding", "floats", "An embedding."),)
    memory = 0
    cost = 0.0
    samplings = ()

    def missing_requirements(self) -> list[str]:
        return []

    def weights_hash(self) -> str:
        return ""

    def open(self):
        return lambda clip: {"same.embedding": [1.0, 0.0]}


@pytest.mark.slow
def test_ray_gives_the_same_rows(raw, output, tmp_path):
    pytest.importorskip("ray.data")
    curate(raw, tmp_path / "out", RECIPE, backend="ray", workers=2)
    assert read_manifest(tmp_path / "out").equals(read_manifest(output))


def test_output_is_a_folder_that_encoding_reads(output):
    folder = scan_folder(output, captions=False)
    assert folder.rejects == []
    assert len(folder.clips) == 6
    clip = next(clip for clip in folder.clips if clip.start == 2.0)
    assert (clip.width, clip.height, clip.fps) == (96, 64, 16.0)
    assert clip.scores["stillness.change"] > 0
    captioned = scan_folder(output)
    assert [clip.caption for clip in captioned.clips if clip.caption] == ["a texture that moves"]


def test_encoded_clips_equal_the_source_and_are_written_again_if_removed(raw, output, tmp_path):
    recipe = replace(RECIPE, signals={"phash": {}}, cut=Cut("encode", crf=10))
    curate(raw, tmp_path / "out", recipe)
    row = rows(tmp_path / "out")["edited.mp4", 1]
    clip = tmp_path / "out" / row["clip_file"]
    mine, _ = io.read(clip)
    source, _ = io.read(raw / "edited.mp4", row["start"], row["end"])
    assert mine.shape == source.shape
    assert np.abs(mine.astype(int) - source).mean() < 3
    clip.unlink()
    assert curate(raw, tmp_path / "out", recipe).computed == {"cut": 1}
    assert clip.is_file()
    assert len(scan_folder(tmp_path / "out", captions=False).clips) == 6


def test_encoded_clips_of_other_settings_are_not_listed(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    io.write(folder / "a.mp4", shot(1, 20), FPS)
    for crf in (10, 40, 10):
        curate(folder, tmp_path / "out", replace(RECIPE, signals={"phash": {}}, cut=Cut("encode", crf)))
        row = rows(tmp_path / "out")["a.mp4", 0]
        assert (tmp_path / "out" / row["clip_file"]).stat().st_size == row["clip_bytes"]


def test_bounds_drop_clips_from_the_list_but_not_from_the_manifest(raw, output, tmp_path):
    recipe = replace(RECIPE, keep=Policy((Bound("seconds", at_least=2.5, keep_missing=True),)))
    curate(raw, output, recipe)
    dropped = [row for row in read_manifest(output).to_pylist() if row["stage"] == "keep"]
    assert dropped
    assert all(row["reason"] == "seconds is out of bounds" and row["seconds"] < 2.5 for row in dropped)
    curate(raw, output, RECIPE)
    with pytest.raises(UserError, match="unknown column secnds; did you mean seconds"):
        curate(raw, output, replace(RECIPE, keep=Policy((Bound("secnds", at_least=1.0),))))
    curate(raw, output, RECIPE)


def test_a_clip_within_bounds_is_kept_of_near_duplicates(raw, output, tmp_path):
    preferred = rows(output)["one.mp4", 0]["id"]
    recipe = replace(RECIPE, keep=Policy((Bound("width", at_most=48.0),)))
    curate(raw, output, recipe)
    manifest_rows = rows(output)
    kept = manifest_rows["small.mp4", 0]
    assert (kept["status"], kept["duplicate_of"]) == ("ok", None)
    assert (manifest_rows["one.mp4", 0]["status"], manifest_rows["one.mp4", 0]["duplicate_of"]) == (
        "dropped",
        kept["id"],
    )
    assert manifest_rows["long.mp4", 0]["reason"] == "width is out of bounds"
    curate(raw, output, replace(RECIPE, keep=Policy((Bound("width", at_most=40.0),))))
    manifest_rows = rows(output)  # no clip of the group is within bounds
    assert (manifest_rows["one.mp4", 0]["stage"], manifest_rows["small.mp4", 0]["duplicate_of"]) == ("keep", preferred)
    curate(raw, output, RECIPE)


def test_one_stage_runs_alone_and_the_rest_is_pending(raw, tmp_path):
    result = curate(raw, tmp_path, RECIPE, stage="split")
    assert set(result.computed) == {"probe", "split"}
    assert result.counts["pending"] == 7
    with pytest.raises(UserError, match="unknown stage shots; available: probe, split, cut, phash"):
        curate(raw, tmp_path, RECIPE, stage="shots")


def test_two_runs_do_not_write_to_one_folder(raw, tmp_path):
    from cogvideox.curation.run import locked

    with (
        locked(tmp_path / "results/lock-0-of-1", tmp_path),
        pytest.raises(UserError, match="another run is writing to"),
    ):
        subprocess_curate(raw, tmp_path)


def subprocess_curate(raw: Path, output: Path) -> None:
    code = f"from cogvideox.curation.run import curate; curate({str(raw)!r}, {str(output)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1])


def num_results(output: Path) -> int:
    """Return the number of results on disk, in Parquet files and in the log."""
    lines = sum(log.read_bytes().count(b"\n") for log in output.glob("results/log-*.jsonl"))
    parts = (part for part in output.glob("results/*/*/*.parquet") if part.name[0] != ".")
    return lines + sum(parquet.read_metadata(part).num_rows for part in parts)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_manifest(raw, output, tmp_path):
    """Killed at seeded moments: each time some results later than the time before, wherever the run is then."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; from cogvideox.curation.run import curate; from cogvideox.curation.recipe import Recipe\n"
        "if __name__ == '__main__':\n"
        "    curate(sys.argv[1], sys.argv[2], Recipe(signals={'phash': {}, 'stillness': {}}), workers=1)\n"
    )
    rng = np.random.default_rng(0)
    interrupted, folders = 0, (tmp_path / str(number) for number in count())
    folder = next(folders)
    while interrupted < 10:
        process = subprocess.Popen([sys.executable, str(program), str(raw), str(folder)], stderr=subprocess.DEVNULL)
        target = num_results(folder) + int(rng.integers(1, 6))
        deadline = time.monotonic() + 120
        while process.poll() is None:
            with suppress(OSError, ArrowInvalid):  # files come and go
                if num_results(folder) >= target or time.monotonic() > deadline:
                    time.sleep(float(rng.uniform(0, 0.2)))
                    process.kill()
        assert time.monotonic() < deadline
        if process.wait(timeout=60) == 0:  # complete before it was killed
            assert read_manifest(folder).equals(read_manifest(output))
            folder = next(folders)
        else:
            interrupted += 1
    curate(raw, folder, RECIPE)
    assert read_manifest(folder).equals(read_manifest(output))
