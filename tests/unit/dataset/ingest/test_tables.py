"""Tables of clips in the dialects that programs write. The expected values are those that were written."""

import csv
import io
import itertools
import json
import random
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from cogvideox.dataset.ingest.folder_layouts import list_folder
from cogvideox.errors import UserError

ROWS = (
    ("v0.mp4", "a red ball", 0.5),
    ("v1.mp4", "a blue, or green; cube | and\ta cone", -1.25),
    ("sub dir/v2.mp4", 'the sign says "stop"', 3.0),
    ("café.mp4", "un café\nrouge", 0.0),
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, _, _ in ROWS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def captions(folder: Path) -> list[tuple[str, str | None]]:
    contents = list_folder(folder)
    return [(str(entry.source.relative_to(folder)), entry.caption) for entry in contents.entries]


EXPECTED = [(name, " ".join(caption.split())) for name, caption, _ in ROWS]


@pytest.mark.parametrize(
    ("separator", "encoding", "newline", "quoting"),
    list(
        itertools.product(
            ",;\t|", ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"), ("\n", "\r\n"), (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
    ),
)
def test_csv_dialects(folder, separator, encoding, newline, quoting):
    text = io.StringIO(newline="")
    table = csv.writer(text, delimiter=separator, lineterminator=newline, quoting=quoting)
    table.writerow(["File Name", "Caption", "flow"])
    for name, caption, flow in ROWS:
        table.writerow([name, caption, flow if separator == "," else f"{flow}".replace(".", ",")])
    (folder / "metadata.csv").write_bytes(text.getvalue().encode(encoding))
    assert captions(folder) == EXPECTED
    assert [entry.scores for entry in list_folder(folder).entries] == [{"flow": flow} for *_, flow in ROWS]


@pytest.mark.parametrize(
    "text",
    [
        "file_name, caption\nv0.mp4, a red ball\nv1.mp4,   a cone \n",
        'file_name , "caption"\nv0.mp4, "a red ball"\n"v1.mp4", "a cone"\n',
        '"""caption""","""video"""\n"""a red ball""","""v0.mp4"""\n"""a cone""","""v1.mp4"""\n',
        "sep=;\nfile_name;caption\nv0.mp4;a red ball\nv1.mp4;a cone",
        "file_name,caption\n.\\v0.mp4,a red ball\n.\\v1.mp4,a cone\n",
        "\n\nfile_name,caption,,\nv0.mp4,a red ball,,\n,,,\nv1.mp4,a cone,,\n,,,\n",
        ",file_name,caption\n0,v0.mp4,a red ball\n1,v1.mp4,a cone\n",
        "FILE_NAME,TEXT\nv0.mp4,a red ball\nv1.mp4,a cone",
        "caption,caption,video\na red ball,x,v0.mp4\na cone,y,v1.mp4",
        "file_name,caption\rv0.mp4,a red ball\rv1.mp4,a cone\r",
        "\ufeff\ufefffile_name,caption\n\ufeffv0.mp4,a red ball\n'v1.mp4',a cone\n",
    ],
)
def test_csv_from_other_programs(folder, text):
    (folder / "metadata.csv").write_text(text, encoding="utf-8", newline="")
    contents = list_folder(folder)
    assert captions(folder) == [("v0.mp4", "a red ball"), ("v1.mp4", "a cone")] and not contents.rejects


def test_quotation_marks_escaped_with_backslashes(folder):
    (folder / "metadata.csv").write_text('file_name,caption\nv0.mp4,"a \\"red\\", big ball"\nv1.mp4,"a \\"cone\\""\n')
    assert captions(folder) == [("v0.mp4", 'a "red", big ball'), ("v1.mp4", 'a "cone"')]


def test_escaped_quotation_marks_leave_the_backslashes_of_paths(folder):
    (folder / "metadata.csv").write_text('file_name,caption\nsub dir\\v2.mp4,"he said \\"hi\\" now"\n')
    assert captions(folder) == [("sub dir/v2.mp4", 'he said "hi" now')]


@pytest.mark.parametrize("suffix", [".png", ".avif", ".heic", ".heif", ".jp2", ".ppm", ".qoi"])
def test_every_image_format_that_is_read_is_listed(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a ball")
    assert captions(tmp_path) == [(f"a{suffix}", "a ball")]


@pytest.mark.parametrize(
    ("value", "score"), [("2024_01", "2024_01"), ("1_000", "1_000"), ("1e3", 1000.0), ("-.5", -0.5)]
)
def test_numbers_in_text_have_no_underscores(folder, value, score):
    (folder / "metadata.csv").write_text(f"file_name,caption,batch\nv0.mp4,a ball,{value}\n")
    (entry,) = list_folder(folder).entries
    assert entry.scores == {"batch": score}


@pytest.mark.parametrize("bad", range(4))
@pytest.mark.parametrize(
    "caption",
    ['"a red ball', '"a "red" ball', '"a red" ball', "a, red ball", '"', '"a ""red ball', '"a red ball\\""'],
)
def test_one_bad_row_does_not_affect_the_others(folder, bad, caption):
    names = [name for name, *_ in ROWS]
    lines = [f'{name},"a ""{name}"", clip"' for name in names]
    lines[bad] = f"{names[bad]},{caption}"
    (folder / "metadata.csv").write_text("file_name,caption\n" + "\n".join(lines) + "\n")
    contents = list_folder(folder)
    good = [(name, f'a "{name}", clip') for number, name in enumerate(names) if number != bad]
    assert [entry for entry in captions(folder) if entry[0] != names[bad]] == good
    if caption != '"a red ball\\""':  # escaped by a backslash
        ((row, reason),) = contents.rejects
        assert row == f"metadata.csv, row {bad + 1}" and ("quotation mark" in reason or "in quotes" in reason)


def test_an_open_quotation_mark_that_a_later_row_closes(folder):
    (folder / "metadata.csv").write_text('file_name,caption\nv0.mp4,"a ball\nv1.mp4,a cone\nsub dir/v2.mp4,of 5"\n')
    assert captions(folder) == [("v1.mp4", "a cone"), ("sub dir/v2.mp4", 'of 5"')]
    ((row, reason),) = list_folder(folder).rejects
    assert row == "metadata.csv, row 1" and reason.startswith("line 2: a quotation mark is never closed")


def test_bytes_of_code_pages_reject_their_row_only(folder):
    (folder / "metadata.csv").write_bytes(b"file_name,caption\nv0.mp4,caf\xe9\nv1.mp4,a cone\n")
    first, second = list_folder(folder).entries
    assert (first.caption, second.caption) == (None, "a cone")
    assert first.caption_problem == "its caption cannot be used: it is not valid Unicode: save the text as UTF-8"


def test_files_with_names_in_another_encoding_or_normalization(folder):
    (folder / "metadata.csv").write_bytes(b"file_name,caption\ncaf\xe9.mp4,one\n")
    Path(folder, "caf\udce9.mp4").write_bytes(b"x")
    assert [entry.source.is_file() for entry in list_folder(folder).entries] == [True]
    for name in ("NFC", "NFD"):
        form = unicodedata.normalize(name, "café.mp4")
        (folder / "metadata.csv").write_text(f"file_name,caption\n{form},one\n", encoding="utf-8")
        assert list_folder(folder).entries[0].source == folder / "café.mp4"


@pytest.mark.parametrize("value", [7, -1, 0.5, 10**30])
def test_captions_that_are_numbers_in_json(folder, value):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "v0.mp4", "caption": value}))
    assert captions(folder) == [("v0.mp4", str(value))]


@pytest.mark.parametrize("value", [True, [], ["a"], {"en": "a"}])
def test_captions_of_other_types_are_rejected(folder, value):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "v0.mp4", "caption": value}))
    (entry,) = list_folder(folder).entries
    assert entry.caption_problem == f"its caption is of type {type(value).__name__}, not a string"


@pytest.mark.parametrize("bad", ["[" * 10**5 + "]" * 10**5, '{"a": }', '"text', "1", '{"file_name": "v0.mp4"'])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_one_bad_row_of_json_does_not_affect_the_others(folder, bad, suffix):
    rows = [f'{{"file_name": "{name}", "caption": "[a] {{ball}},"}}' for name in ("v0.mp4", "v1.mp4")]
    rows.insert(1, bad)
    if bad.count("{") != bad.count("}") or bad == '"text':
        rows[1:] = [rows[2], bad]  # in an array, the rest belongs to it
    text = "\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]"
    (folder / f"metadata.{suffix}").write_text(text)
    contents = list_folder(folder)
    assert captions(folder) == [("v0.mp4", "[a] {ball},"), ("v1.mp4", "[a] {ball},")]
    assert len(contents.rejects) == 1 and "not a JSON object" in contents.rejects[0][1]


def test_json_and_json_lines_with_the_extension_of_the_other(folder):
    rows = [{"file_name": name, "caption": caption} for name, caption, _ in ROWS]
    for name, text in (("json", "\n".join(map(json.dumps, rows))), ("jsonl", json.dumps(rows, indent=2))):
        (folder / f"metadata.{name}").write_text(text, encoding="utf-16")
        assert captions(folder) == EXPECTED
        (folder / f"metadata.{name}").unlink()


def test_parquet_texts_of_every_type(folder):
    names, texts = [name for name, *_ in ROWS], [caption for _, caption, _ in ROWS]
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string())):
        column = pa.array(texts).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(texts).dictionary_encode()
        parquet.write_table(pa.table({"file_name": names, "caption": column}), folder / "metadata.parquet")
        assert captions(folder) == EXPECTED


def test_parquet_numbers_of_every_type(folder):
    kinds = (pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64())
    columns = {str(kind): pa.array([1]).cast(pa.float64()).cast(kind) for kind in kinds}
    parquet.write_table(pa.table({"file_name": ["v0.mp4"], "caption": ["x"], **columns}), folder / "metadata.parquet")
    (entry,) = list_folder(folder).entries
    assert entry.scores == dict.fromkeys(columns, 1.0)


def test_parquet_with_bad_texts_and_columns(folder):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"fine"]).buffers())
    columns = [pa.array(["v0.mp4", "v1.mp4"]), bad, bad, pa.array([1, 2]), pa.nulls(2), pa.array([3, 4])]
    names = ["video", "text", "note", "score", "empty", "score"]
    parquet.write_table(pa.Table.from_arrays(columns, names), folder / "metadata.parquet")
    first, second = list_folder(folder).entries
    assert first.caption is None and first.caption_problem is not None and second.caption == "fine"
    assert second.scores["note"] == "fine" and "note" not in first.scores


def test_a_damaged_parquet_column_is_ignored(folder):
    table = pa.table({"file_name": ["v0.mp4"] * 99, "caption": ["x"] * 99, "score": [k / 7 for k in range(99)]})
    parquet.write_table(table, folder / "metadata.parquet", compression="snappy", use_dictionary=False)
    data = bytearray((folder / "metadata.parquet").read_bytes())
    chunk = parquet.ParquetFile(folder / "metadata.parquet").metadata.row_group(0).column(2)
    data[chunk.data_page_offset : chunk.data_page_offset + 60] = bytes(60)
    (folder / "metadata.parquet").write_bytes(data)
    contents = list_folder(folder)
    assert len(contents.entries) == 99 and not contents.entries[0].scores and "ignored: score" in contents.notes[0]


def test_columns_without_a_name_or_above_the_limit_are_ignored(folder, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_MAX_COLUMNS", "2")
    header = b"file_name,caption,gr\xf6\xdfe,,s1,s2,s3\n"
    (folder / "metadata.csv").write_bytes(header + b"v0.mp4,x,1,2,3,4,5\n")
    contents = list_folder(folder)
    assert contents.entries[0].scores == {"s1": 3.0, "s2": 4.0}
    assert len(contents.notes) == 2 and any("gr\\xf6\\xdfe" in note for note in contents.notes)


def test_large_tables_are_refused(folder, monkeypatch):
    (folder / "metadata.csv").write_text("file_name,caption\nv0.mp4,x\n")
    monkeypatch.setenv("COGVIDEOX_MAX_TABLE_BYTES", "20")
    with pytest.raises(UserError, match="COGVIDEOX_MAX_TABLE_BYTES raises it"):
        list_folder(folder)
    (folder / "metadata.csv").unlink()
    parquet.write_table(pa.table({"file_name": ["v0.mp4"] * 9, "caption": ["x"] * 9}), folder / "metadata.parquet")
    monkeypatch.setenv("COGVIDEOX_MAX_ROWS", "8")
    with pytest.raises(UserError, match="COGVIDEOX_MAX_ROWS raises it"):
        list_folder(folder)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_csv_keeps_the_rows_that_are_not_damaged(folder, seed):
    """One byte changed to a quotation mark, separator or newline costs at most the rows that it touches."""
    rng = random.Random(seed)
    for number in range(20):
        (folder / f"w{number}.mp4").write_bytes(b"x")
    data = "file_name,caption\n" + "".join(f'w{number}.mp4,"a ball, number {number}"\n' for number in range(20))
    position = rng.randrange(20, len(data))
    (folder / "metadata.csv").write_text(data[:position] + rng.choice('",\n;') + data[position + 1 :])
    expected = {f"w{number}.mp4": f"a ball, number {number}" for number in range(20)}
    intact = [(name, caption) for name, caption in captions(folder) if expected.get(name) == caption]
    assert len(intact) >= 18, (position, captions(folder))


def test_a_small_parquet_file_with_a_text_repeated_many_times_takes_little_memory(folder):
    """2 GB, if every row had its own copy of the texts."""
    rows = pa.array([0] * 20_000, pa.int32())
    columns = {"file_name": "a.mp4", "caption": "a red ball " * 5_000, "label": "x" * 10_000, "other": "x" * 50_000}
    table = pa.table({name: pa.DictionaryArray.from_arrays(rows, pa.array([text])) for name, text in columns.items()})
    for keeps_types in (False, True):
        parquet.write_table(table, folder / "metadata.parquet", store_schema=keeps_types)
        assert (folder / "metadata.parquet").stat().st_size < 100_000
        contents = list_folder(folder)
        assert len(contents.entries) == 20_000
        first, *_, last = contents.entries
        assert first.caption is last.caption and first.caption == ("a red ball " * 5_000).strip()
        assert first.scores == {"label": "x" * 10_000} and first.scores["label"] is last.scores["label"]
        assert contents.notes == ["columns with strings of more than 10,000 characters are ignored: other"]


def test_the_length_of_a_caption_is_limited(folder, monkeypatch):
    rows = [{"file_name": "a.mp4", "caption": "word " * n} for n in (20_000, 20_001)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = list_folder(folder).entries
    assert first.caption_problem is None
    assert second.caption_problem is not None and "100,005 characters" in second.caption_problem
    assert "COGVIDEOX_MAX_CAPTION raises it" in second.caption_problem


def test_urls_are_rejected_by_name(folder):
    rows = [{"file_name": "https://host/v.mp4", "text": "a ball"}, {"file_name": "v0.mp4", "text": "a cone"}]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert captions(folder) == [("v0.mp4", "a cone")]
    [(name, reason)] = list_folder(folder).rejects
    assert (name, reason[:35]) == ("https://host/v.mp4", "row 1 of metadata.jsonl: it is a UR")


def test_columns_of_a_table_without_a_header_are_listed_in_order(folder):
    (folder / "metadata.csv").write_text("v0.mp4,a red ball\nv1.mp4,a blue cube\n")
    [(_, reason)] = list_folder(folder).rejects
    assert reason.endswith("the columns are 'v0.mp4', 'a red ball'")
