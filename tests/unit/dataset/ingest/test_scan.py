import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cogvideox.dataset.ingest.scan import scan_folder
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from tests.unit.dataset import clips


@pytest.fixture
def media(tmp_path) -> Path:
    """Two videos and an image without captions."""
    clips.video(tmp_path / "videos/a.mp4", None)
    clips.video(tmp_path / "videos/b.mp4", None, num_frames=13, seed=1)
    clips.image(tmp_path / "videos/c.png", None)
    return tmp_path


def scanned(folder: Path, **options) -> list[tuple[str, str, int]]:
    folder = scan_folder(folder, **options)
    assert not folder.rejects
    return [(clip.source.name, clip.caption, clip.num_frames) for clip in folder.clips]


ALL = [("a.mp4", "one", 9), ("b.mp4", "two", 13), ("c.png", "three", 1)]
WORDS = dict(zip("abc", ("one", "two", "three")))


def test_side_by_side(media):
    for name, word in WORDS.items():
        (media / f"videos/{name}.txt").write_text(f" {word}\n")
    assert scanned(media / "videos") == ALL
    clip = scan_folder(media / "videos").clips[0]
    assert (clip.fps, clip.height, clip.width, clip.start, clip.end) == (8.0, 32, 48, None, None)
    assert scan_folder(media / "videos").clips[2].is_image


def test_the_prompt_in_a_json_sidecar_is_the_caption(media):
    (media / "videos/c.png").unlink()
    (media / "videos/a.json").write_text('{"prompt": "one  ball", "seed": 1}')
    (media / "videos/b.json").write_text('{"prompt": "two"}')
    (media / "videos/b.txt").write_text("three")
    assert scanned(media / "videos") == [("a.mp4", "one ball", 9), ("b.mp4", "three", 13)]
    for content in ("[]", "{", '{"prompt": 3}', "{}"):
        (media / "videos/a.json").write_text(content)
        assert [reason for _, reason in scan_folder(media / "videos").rejects] == ["it has no caption"]


def test_videos_and_labels(media):
    (media / "labels").mkdir()
    for name, word in WORDS.items():
        (media / f"labels/{name}.txt").write_text(word)
    assert scanned(media) == ALL


def test_text_lists(media):
    (media / "prompts.txt").write_text("\ufeffone\ntwo\nthree\n\n", encoding="utf-8")
    (media / "videos.txt").write_text("videos/a.mp4\nvideos/b.mp4\nvideos/c.png\n")
    assert scanned(media) == ALL
    (media / "images.txt").write_text("x\n")
    assert "images.txt is ignored" in scan_folder(media).notes[0]
    (media / "prompts.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"prompts.txt has 2 lines and videos.txt has 3"):
        scan_folder(media)
    (media / "videos.txt").unlink()
    (media / "images.txt").unlink()
    with pytest.raises(UserError, match=r"neither a videos.txt nor an images.txt"):
        scan_folder(media)


def rows() -> list[dict]:
    return [{"video": f"videos/{name}", "text": text, "flow": number / 2} for name, text, number in ALL]


def write_jsonl(folder: Path) -> None:
    lines = [json.dumps(row) for row in rows()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def write_json(folder: Path) -> None:
    (folder / "metadata.json").write_text(json.dumps(rows()))


def write_csv(folder: Path) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["file_name", "caption", "flow"])
        table.writeheader()
        table.writerows({"file_name": row["video"], "caption": row["text"], "flow": row["flow"]} for row in rows())


def write_parquet(folder: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(rows()), folder / "metadata.parquet")


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet])
def test_tables(media, write):
    write(media)
    assert scanned(media) == ALL
    assert scanned(next(media.glob("metadata.*"))) == ALL
    assert [clip.scores for clip in scan_folder(media).clips] == [{"flow": 4.5}, {"flow": 6.5}, {"flow": 0.5}]


def test_a_row_may_be_a_part_of_a_file(media):
    row = {"path": "videos/b.mp4", "prompt": "p", "start": 0.5, "end": 1.5, "source": "web", "tags": ["x"], "n": None}
    (media / "metadata.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"start": 0, "end": None}))
    part, whole = (folder := scan_folder(media)).clips
    assert (part.start, part.end, part.num_frames) == (0.5, 1.5, 8) and whole.num_frames == 13
    assert part.id != whole.id and part.scores == {}
    assert folder.notes == ["columns that are neither numbers nor strings are ignored: tags"]


def test_invalid_rows_are_rejected_with_a_reason(media):
    lines = ["{", "[1]", '{"caption": "x"}', '{"video": "no.mp4", "text": "x"}']
    lines += ['{"video": "videos/a.mp4", "text": "x", "start": "soon"}', '{"video": "videos/a.mp4", "text": [3]}']
    lines += ['{"video": "videos/a.mp4", "text": "x", "start": 9}']
    (media / "metadata.jsonl").write_text("\n".join(lines))
    folder = scan_folder(media)
    assert not folder.clips
    reasons = [reason for _, reason in folder.rejects]
    for part in (
        "not a JSON",
        "not a JSON",
        "names no file",
        "not a number",
        "file not found",
        "its caption is of type list, not a string",
        "is empty",
    ):
        assert any(part in reason for reason in reasons), (part, reasons)


def test_an_unquoted_comma_in_a_csv_row_is_rejected(media):
    (media / "metadata.csv").write_text('video,text\nvideos/a.mp4,a ball, red\nvideos/b.mp4,"a ball, green"\n')
    folder = scan_folder(media)
    assert [clip.caption for clip in folder.clips] == ["a ball, green"] and not folder.notes
    ((row, reason),) = folder.rejects
    assert row == "metadata.csv, row 1" and "in quotes" in reason


def test_unicode_line_separators_do_not_end_csv_rows(media):
    """Captions may contain characters that end a line elsewhere, such as U+2028."""
    text = "a ball\u2028rolls\x85 on\x0b"
    (media / "metadata.csv").write_text(f"video,text\nvideos/a.mp4,{text}\n", encoding="utf-8")
    folder = scan_folder(media)
    assert [clip.caption for clip in folder.clips] == ["a ball rolls on"] and not folder.rejects


def test_nan_times_are_missing(media):
    """Some programs write NaN for an empty number."""
    (media / "metadata.jsonl").write_text('{"video": "videos/a.mp4", "text": "x", "start": NaN, "end": NaN}')
    (clip,) = scan_folder(media).clips
    assert clip.start is None and clip.end is None


def test_missing_scores_are_allowed_and_rows_without_a_file_rejected(media):
    lines = ["video,text,flow", "videos/a.mp4,x,0.5", "videos/b.mp4,y,", "videos/a.mp4,z,nan", ",w,1"]
    (media / "metadata.csv").write_text("\n".join(lines))
    folder = scan_folder(media)
    assert [clip.scores for clip in folder.clips] == [{"flow": 0.5}, {}, {}] and not folder.notes
    ((row, reason),) = folder.rejects
    assert row == "metadata.csv, row 4" and "names no file" in reason


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e400", "-1e400", "NaN", "9" * 5000])
def test_numbers_of_any_size_are_values_or_none(media, number):
    """A score that is no finite number is left out, a time rejects its row."""
    row = '{"video": "videos/a.mp4", "text": "x", "%s": %s}'
    (media / "metadata.jsonl").write_text(
        "\n".join(row % (name, number) for name in ("score", "end")) + "\n" + row % ("score", 3)
    )
    contents = scan_folder(media)
    assert [clip.scores for clip in contents.clips][-1] == {"score": 3.0}
    assert all(clip.scores == {} for clip in contents.clips[:-1]) and len(contents.clips) + len(contents.rejects) == 3


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl", "videos/a.json"])
def test_json_of_any_depth_is_a_row_or_a_reject(media, depth, name):
    nested = '{"video": "videos/a.mp4", "text": "x", "tags": ' + "[" * depth + "1" + "]" * depth + "}"
    good = '{"video": "videos/b.mp4", "text": "x"}'
    (media / name).write_text(f"[{nested}, {good}]" if name == "metadata.json" else f"{nested}\n{good}")
    if name == "videos/a.json":
        assert {reason for _, reason in scan_folder(media / "videos").rejects} == {"it has no caption"}
    else:
        assert [clip.source.name for clip in scan_folder(media).clips][-1] == "b.mp4"


def test_parquet_columns_of_any_type_are_read_or_left_out(media):
    rows = {
        "video": pa.array(["videos/a.mp4"] * 2).dictionary_encode(),
        "text": pa.array(["x"] * 2, pa.large_string()),
        "score": pa.array([1, 2], pa.uint64()),
        **{f"t{unit}": pa.array([1, None], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
        "length": pa.array([1, 2], pa.duration("ns")),
        "time": pa.array([1, 2], pa.time64("ns")),
        "blob": [b"\xff", None],
        "tags": [["a"], []],
        "struct": [{"a": 1}, None],
        "decimal": pa.array([1, 2]).cast(pa.decimal128(30, 2)),
    }
    parquet.write_table(pa.table(rows), media / "metadata.parquet")
    contents = scan_folder(media)
    assert [clip.scores for clip in contents.clips] == [{"score": 1.0}, {"score": 2.0}] and not contents.rejects
    assert "blob, decimal, length, struct, tags, time, tms, tns, ts, tus" in contents.notes[0]


def test_a_single_json_object_is_one_row(media):
    (media / "metadata.json").write_text(json.dumps({"video": "videos/a.mp4", "text": "x"}, indent=2))
    assert [clip.caption for clip in scan_folder(media).clips] == ["x"]


def test_damaged_files_do_not_stop_the_scan(tmp_path):
    reasons = clips.write_unusable(tmp_path)
    clips.video(tmp_path / "good.mp4")
    folder = scan_folder(tmp_path)
    rejects = {Path(source).name: reason for source, reason in folder.rejects}
    later = {"tiny.mp4", "slow.mp4", "short.mp4"}  # rejected only when planned or read
    assert rejects.keys() == reasons.keys() - later
    for name, reason in rejects.items():
        assert reasons[name] in reason, name
    assert "good.mp4" in {clip.source.name for clip in folder.clips}


def test_a_folder_of_images_needs_no_captions(tmp_path):
    clips.image(tmp_path / "a.png", None)
    clips.image(tmp_path / "b/c.jpg.png", None)
    (tmp_path / ".hidden").mkdir()
    clips.image(tmp_path / ".hidden/d.png", None)
    assert scanned(tmp_path) == [("a.png", "", 1), ("c.jpg.png", "", 1)]
    (tmp_path / "a.txt").write_text("a cube")
    assert [reason for _, reason in scan_folder(tmp_path).rejects] == ["it has no caption"]


def test_an_image_with_the_name_of_a_video_is_rejected(tmp_path):
    clips.video(tmp_path / "a.mp4")
    clips.image(tmp_path / "a.png", None)
    assert scan_folder(tmp_path).rejects == [(str(tmp_path / "a.png"), "the caption beside it belongs to a.mp4")]


def test_captions_are_optional_for_training_on_pixels(media):
    assert len(scan_folder(media / "videos").rejects) == 3
    assert [name for name, _, _ in scanned(media / "videos", captions=False)] == ["a.mp4", "b.mp4", "c.png"]


def test_ids_depend_on_the_content_only(media):
    ids = [clip.id for clip in scan_folder(media / "videos", captions=False).clips]
    assert len(set(ids)) == 3
    (media / "videos/a.mp4").rename(media / "videos/z.mp4")
    assert [clip.id for clip in scan_folder(media / "videos", captions=False).clips] == [*ids[1:], ids[0]]


def test_jobs_and_workers_scan_the_same_clips(media):
    whole = scan_folder(media / "videos", captions=False).clips
    parts = [scan_folder(media / "videos", captions=False, shard=Shard(k, 2), workers=k).clips for k in (0, 1)]
    assert [parts[0][0], parts[1][0], parts[0][1]] == whole


def test_other_folders_and_files_are_rejected(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path, reason in (
        (tmp_path, "there are no videos or images in"),
        (tmp_path / "none", "file or folder not found"),
        (tmp_path / "notes.txt", "it is a file of a different type"),
    ):
        with pytest.raises(UserError, match=reason):
            scan_folder(path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged or not a Parquet"):
        scan_folder(tmp_path)
