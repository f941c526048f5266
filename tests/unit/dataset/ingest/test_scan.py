import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cogvideox.dataset.ingest.scan import recognise
from cogvideox.errors import UserError
from cogvideox.executor.job_array import Shard
from tests.unit.dataset import clips


@pytest.fixture
def media(tmp_path) -> Path:
    """Two videos and a picture without captions, in a folder of their own."""
    clips.video(tmp_path / "videos/a.mp4", None)
    clips.video(tmp_path / "videos/b.mp4", None, num_frames=13, seed=1)
    clips.picture(tmp_path / "videos/c.png", None)
    return tmp_path


def seen(folder: Path, **options) -> list[tuple[str, str, int]]:
    listing = recognise(folder, **options)
    assert not listing.rejects
    return [(clip.source.name, clip.caption, clip.num_frames) for clip in listing.clips]


ALL = [("a.mp4", "one", 9), ("b.mp4", "two", 13), ("c.png", "three", 1)]
WORDS = dict(zip("abc", ("one", "two", "three")))


def test_side_by_side(media):
    for name, word in WORDS.items():
        (media / f"videos/{name}.txt").write_text(f" {word}\n")
    assert seen(media / "videos") == ALL
    clip = recognise(media / "videos").clips[0]
    assert (clip.fps, clip.height, clip.width, clip.start, clip.end) == (8.0, 32, 48, None, None)
    assert recognise(media / "videos").clips[2].is_image


def test_metadata_beside_a_video_tells_its_prompt(media):
    (media / "videos/c.png").unlink()
    (media / "videos/a.json").write_text('{"prompt": "one  ball", "seed": 1}')
    (media / "videos/b.json").write_text('{"prompt": "two"}')
    (media / "videos/b.txt").write_text("three")
    assert seen(media / "videos") == [("a.mp4", "one ball", 9), ("b.mp4", "three", 13)]
    for content in ("[]", "{", '{"prompt": 3}', "{}"):
        (media / "videos/a.json").write_text(content)
        assert [reason for _, reason in recognise(media / "videos").rejects] == ["it has no caption"]


def test_videos_and_labels(media):
    (media / "labels").mkdir()
    for name, word in WORDS.items():
        (media / f"labels/{name}.txt").write_text(word)
    assert seen(media) == ALL


def test_lists(media):
    (media / "prompts.txt").write_text("\ufeffone\ntwo\nthree\n\n", encoding="utf-8")
    (media / "videos.txt").write_text("videos/a.mp4\nvideos/b.mp4\nvideos/c.png\n")
    assert seen(media) == ALL
    (media / "images.txt").write_text("x\n")
    assert "images.txt is not needed" in recognise(media).notes[0]
    (media / "prompts.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"prompts.txt has 2 lines and videos.txt has 3"):
        recognise(media)
    (media / "videos.txt").unlink()
    (media / "images.txt").unlink()
    with pytest.raises(UserError, match=r"neither a videos.txt nor an images.txt"):
        recognise(media)


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
    assert seen(media) == ALL
    assert seen(next(media.glob("metadata.*"))) == ALL
    assert [clip.scores for clip in recognise(media).clips] == [{"flow": 4.5}, {"flow": 6.5}, {"flow": 0.5}]


def test_a_row_may_be_a_piece_of_a_file(media):
    row = {"path": "videos/b.mp4", "prompt": "p", "start": 0.5, "end": 1.5, "source": "web", "tags": ["x"], "n": None}
    (media / "metadata.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"start": 0, "end": None}))
    piece, whole = (listing := recognise(media)).clips
    assert (piece.start, piece.end, piece.num_frames) == (0.5, 1.5, 8) and whole.num_frames == 13
    assert piece.id != whole.id and piece.scores == {}
    assert listing.notes == ["columns that are neither numbers nor texts are left out: tags"]


def test_rows_that_are_none_are_told(media):
    lines = ["{", "[1]", '{"caption": "x"}', '{"video": "no.mp4", "text": "x"}']
    lines += ['{"video": "videos/a.mp4", "text": "x", "start": "soon"}', '{"video": "videos/a.mp4", "text": 3}']
    lines += ['{"video": "videos/a.mp4", "text": "x", "start": 9}']
    (media / "metadata.jsonl").write_text("\n".join(lines))
    listing = recognise(media)
    assert not listing.clips
    reasons = [reason for _, reason in listing.rejects]
    for part in (
        "no JSON",
        "no JSON",
        "none of file_name",
        "no number",
        "no such file",
        "no caption",
        "there is nothing",
    ):
        assert any(part in reason for reason in reasons), (part, reasons)


def test_a_text_with_commas_belongs_into_quotes(media):
    (media / "metadata.csv").write_text('video,text\nvideos/a.mp4,a ball, red\nvideos/b.mp4,"a ball, green"\n')
    listing = recognise(media)
    assert [clip.caption for clip in listing.clips] == ["a ball, green"] and not listing.notes
    ((row, reason),) = listing.rejects
    assert row == "metadata.csv, row 1" and "is put into quotes" in reason


def test_what_ends_no_line_of_a_csv_stays_in_its_text(media):
    """Among the characters that end a line for others than CSV are some that captions hold."""
    said = "a ball\u2028rolls\x85 on\x0b"
    (media / "metadata.csv").write_text(f"video,text\nvideos/a.mp4,{said}\n", encoding="utf-8")
    listing = recognise(media)
    assert [clip.caption for clip in listing.clips] == ["a ball rolls on"] and not listing.rejects


def test_a_time_that_is_nan_is_none(media):
    """As tables are written by programs that know no empty number."""
    (media / "metadata.jsonl").write_text('{"video": "videos/a.mp4", "text": "x", "start": NaN, "end": NaN}')
    (clip,) = recognise(media).clips
    assert clip.start is None and clip.end is None


def test_a_score_that_is_missing_leaves_out_no_column_and_a_row_without_a_file_is_told(media):
    lines = ["video,text,flow", "videos/a.mp4,x,0.5", "videos/b.mp4,y,", "videos/a.mp4,z,nan", ",w,1"]
    (media / "metadata.csv").write_text("\n".join(lines))
    listing = recognise(media)
    assert [clip.scores for clip in listing.clips] == [{"flow": 0.5}, {}, {}] and not listing.notes
    ((row, reason),) = listing.rejects
    assert row == "metadata.csv, row 4" and "none of file_name" in reason


def test_an_object_is_a_table_of_one_row(media):
    (media / "metadata.json").write_text(json.dumps({"video": "videos/a.mp4", "text": "x"}, indent=2))
    assert [clip.caption for clip in recognise(media).clips] == ["x"]


def test_damaged_files_stop_nothing(tmp_path):
    reasons = clips.damaged(tmp_path)
    clips.video(tmp_path / "good.mp4")
    listing = recognise(tmp_path)
    told = {Path(source).name: reason for source, reason in listing.rejects}
    later = {"half.mp4", "tiny.mp4", "slow.mp4", "short.mp4"}  # which only reading or the target tells
    assert told.keys() == reasons.keys() - later
    for name, reason in told.items():
        assert reasons[name] in reason, name
    assert "good.mp4" in {clip.source.name for clip in listing.clips}


def test_images_alone_need_no_captions(tmp_path):
    clips.picture(tmp_path / "a.png", None)
    clips.picture(tmp_path / "b/c.jpg.png", None)
    (tmp_path / ".hidden").mkdir()
    clips.picture(tmp_path / ".hidden/d.png", None)
    assert seen(tmp_path) == [("a.png", "", 1), ("c.jpg.png", "", 1)]
    (tmp_path / "a.txt").write_text("a cube")
    assert [reason for _, reason in recognise(tmp_path).rejects] == ["it has no caption"]


def test_a_picture_beside_a_video_is_its_cover(tmp_path):
    clips.video(tmp_path / "a.mp4")
    clips.picture(tmp_path / "a.png", None)
    assert recognise(tmp_path).rejects == [
        (str(tmp_path / "a.png"), "the caption beside it is taken for that of a.mp4")
    ]


def test_pixels_alone_need_no_captions(media):
    assert len(recognise(media / "videos").rejects) == 3
    assert [name for name, _, _ in seen(media / "videos", captions=False)] == ["a.mp4", "b.mp4", "c.png"]


def test_ids_are_of_the_content(media):
    ids = [clip.id for clip in recognise(media / "videos", captions=False).clips]
    assert len(set(ids)) == 3
    (media / "videos/a.mp4").rename(media / "videos/z.mp4")
    assert [clip.id for clip in recognise(media / "videos", captions=False).clips] == [*ids[1:], ids[0]]


def test_jobs_and_workers_share_the_files(media):
    whole = recognise(media / "videos", captions=False).clips
    parts = [recognise(media / "videos", captions=False, shard=Shard(k, 2), workers=k).clips for k in (0, 1)]
    assert [parts[0][0], parts[1][0], parts[0][1]] == whole


def test_what_is_no_folder_of_clips(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path, reason in (
        (tmp_path, "nothing in .* is a video or an image"),
        (tmp_path / "none", "it is not there"),
        (tmp_path / "notes.txt", "it is a file"),
    ):
        with pytest.raises(UserError, match=reason):
            recognise(path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged or no Parquet"):
        recognise(tmp_path)
