"""`cogvideox select`: clips of a manifest by policy, and the explanation of one clip."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from cogvideox import config
from cogvideox.cli.main import main
from cogvideox.curation import manifest
from cogvideox.curation.clusters import Clustering, cluster_names
from cogvideox.curation.selection import ManifestSelector
from cogvideox.curation.stage import Column
from cogvideox.errors import UserError
from cogvideox.filter_policy.explain import format_steps
from cogvideox.filter_policy.policy import Balance, Bound, Policy
from cogvideox.filter_policy.schedule import Schedule

COLUMNS = (
    Column("file_seconds", "float", ""),
    Column("is_image", "bool", ""),
    Column("index", "int", ""),
    Column("start", "float", ""),
    Column("end", "float", ""),
    Column("seconds", "float", ""),
    Column("clip_file", "str", ""),
    Column("motion.flow_mean", "float", ""),
    Column("labels.editing", "float", ""),
    Column("cluster", "str", ""),
    Column("duplicate_of", "str", ""),
)
SCHEDULE = Schedule((0, 100), (0.0, 1.0))
SCHEDULED = Policy((Bound("motion.flow_mean", at_least=SCHEDULE),), labels={"editing": 0.5})


def write_manifest(folder: Path, num_rows: int = 40) -> Path:
    """Write a manifest: video 0 failed, video 1 is an image without flow, video 3 is a near-duplicate of video 2."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = manifest.schema(COLUMNS)
    rows = []
    for i in range(num_rows):
        row = dict.fromkeys(schema.names)
        row |= {
            "id": f"{i:04}{'ab' * 10}",
            "source": f"video{i}.mp4",
            "status": "ok",
            "caption": f"clip {i}",
            "index": 0,
        }
        row |= {"start": 1.0, "end": 3.0, "seconds": 2.0, "file_seconds": 9.0, "is_image": i == 1}
        row |= {"motion.flow_mean": i / num_rows, "labels.editing": 0.9 if i % 10 == 9 else 0.1, "cluster": f"c{i % 3}"}
        rows.append(row)
    rows[0] |= {"status": "failed", "stage": "probe", "reason": "damaged", "motion.flow_mean": None}
    rows[1] |= {"motion.flow_mean": None, "source": "picture.png"}
    rows[3] |= {"status": "dropped", "stage": "duplicates", "duplicate_of": rows[2]["id"]}
    manifest.write_table(pa.Table.from_pylist(rows, schema), folder / manifest.MANIFEST)
    return folder


def test_the_selected_clips_are_listed_with_their_scores(tmp_path):
    curated = write_manifest(tmp_path / "curated")
    policy = Policy((Bound("motion.flow_mean", at_least=0.5),), labels={"editing": 0.5})
    selector = ManifestSelector(curated, policy)
    assert selector.write(tmp_path / "out", None, tmp_path / "raw") == 19
    table = parquet.read_table(tmp_path / "out/metadata.parquet")
    assert table["file_name"].to_pylist()[:3] == ["../raw/picture.png", "../raw/video20.mp4", "../raw/video21.mp4"]
    assert table["start"].to_pylist()[:2] == [None, 1.0] and table["caption"][1].as_py() == "clip 20"
    assert {"motion.flow_mean", "labels.editing", "clip", "duplicate_of"} <= {*table.column_names}
    assert config.load(Policy, tmp_path / "out/policy.yaml") == policy


def test_scheduled_thresholds_select_clips_that_pass_at_any_step(tmp_path):
    selector = ManifestSelector(write_manifest(tmp_path), SCHEDULED)
    assert len(selector.rows) == 39  # all but the failed file
    assert selector.kept_at(0).clips == 34 and selector.kept_at(50).clips == 19
    assert selector.kept_at(0).by_column == {"motion.flow_mean": 39, "labels.editing": 35}
    assert selector.selected(None).sum() == 34 and selector.selected(50).sum() == 19


def test_near_duplicates_and_clusters_are_selected_again(tmp_path):
    """A different member of a group of near-duplicates may be the one that passes."""
    curated = write_manifest(tmp_path)
    for lowest, expected in ((0.05, [1, 2, 4]), (0.06, [1, 3, 4])):
        selector = ManifestSelector(curated, Policy((Bound("motion.flow_mean", at_least=lowest),)))
        assert selector.rows[selector.selected(0)].tolist()[:3] == expected
    balanced = ManifestSelector(curated, Policy(balance=Balance(max_fraction=0.34, prefer="motion.flow_mean")))
    clusters = np.bincount(balanced.rows[balanced.selected(0)] % 3)
    assert clusters.max() / clusters.sum() <= 0.34 and clusters.sum() >= 36


def test_a_clip_is_explained(tmp_path, capsys):
    curated, file = write_manifest(tmp_path / "curated"), tmp_path / "policy.yaml"
    config.save(SCHEDULED, file)
    assert main(["select", str(curated), "--policy", str(file), "--explain", "0010", "--step", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("  ")[0] == "motion.flow_mean"
    assert "0.25" in lines[1] and "at least 0.4" in lines[1] and "no" in lines[1] and lines[1].endswith("0 to 25")
    assert "always" in lines[2] and "labels.editing" in lines[2]
    assert lines[-1] == "0010 is not kept at step 40"
    assert main(["select", str(curated), "--policy", str(file), "--explain", "video9.mp4"]) == 0
    assert "never" in capsys.readouterr().out.splitlines()[2]
    for clip, message in (
        ("video0.mp4", "was not measured (failed at stage probe): damaged"),
        ("nothing", "has no clip nothing"),
        ("00", "matches 40 clips"),
    ):
        assert main(["select", str(curated), "--policy", str(file), "--explain", clip]) == 2
        assert message in capsys.readouterr().err


def test_the_step_from_which_a_clip_passes():
    assert format_steps([(0, None)]) == "always" and format_steps([]) == "never"
    assert format_steps([(0, 9), (2000, None)]) == "0 to 9 and from 2,000"


def test_invalid_selections_are_rejected(tmp_path, capsys):
    curated = write_manifest(tmp_path / "curated")
    file = tmp_path / "policy.yaml"
    config.save(SCHEDULED, file)
    assert main(["select", str(curated), str(curated), "--policy", str(file)]) == 2
    assert "OUT must differ" in capsys.readouterr().err
    assert main(["select", str(curated), str(tmp_path / "out"), "--policy", str(file)]) == 2
    assert "pass it with --raw" in capsys.readouterr().err
    assert not (tmp_path / "out/metadata.parquet").exists()
    with pytest.raises(UserError, match=r"did you mean motion.flow_mean\?"):
        ManifestSelector(curated, Policy((Bound("motion.flow", at_least=0.1),)))
    with pytest.raises(UserError, match="keeps no clips"):
        ManifestSelector(curated, Policy(labels={"editing": 0.0})).write(tmp_path / "out", None, tmp_path)


def test_the_funnel_page_shows_the_thresholds(tmp_path, capsys):
    curated, file = write_manifest(tmp_path / "curated"), tmp_path / "policy.yaml"
    config.save(SCHEDULED, file)
    assert main(["funnel", str(curated), "--policy", str(file), "--html"]) == 0
    assert "kept at step 100" in capsys.readouterr().out
    page = (curated / "funnel.html").read_text()
    for rule in ("at least 0 at step 0", "at least 1 at step 100", "at most 0.5"):
        assert page.count(f"<title>{rule}</title>") == 1
    assert page.count("class='limit'") == 3 and page.count("stroke-dasharray") == 2


def test_clusters_of_an_embedding_are_balanced_and_stored(tmp_path):
    pytest.importorskip("sklearn")
    curated, rng = write_manifest(tmp_path / "curated", 60), np.random.default_rng(0)
    path = curated / manifest.MANIFEST
    table = parquet.read_table(path)
    group = np.where(np.arange(60) < 40, 0, np.where(np.arange(60) < 50, 1, 2))  # 40, 10 and 10 clips
    vectors = np.eye(3, 8)[group] + 0.05 * rng.normal(size=(60, 8))
    embeddings = [None if i == 5 else vector for i, vector in enumerate(vectors.tolist())]
    table = table.append_column("tags.embedding", pa.array(embeddings, pa.list_(pa.float32())))
    manifest.write_table(table.drop_columns(["cluster"]), path)
    selector = ManifestSelector(curated, Policy(balance=Balance(max_fraction=0.4)), Clustering(3))
    number = selector.write(tmp_path / "out", None, tmp_path / "raw")
    stored = parquet.read_table(tmp_path / "out/metadata.parquet")["cluster"].to_pylist()
    assert len(stored) == number and stored.count("") == 1  # the clip without an embedding is not limited
    assert sorted(stored.count(name) for name in {*stored} - {""}) == [10, 10, 14]
    with pytest.raises(UserError, match="--clusters 100 is more than the 59 clips"):
        cluster_names(curated, Clustering(100))
    with pytest.raises(UserError, match="no column other of embeddings"):
        cluster_names(curated, Clustering(3, "other"))
