from dataclasses import dataclass, replace

import pytest

from cogvideox.curation.manifest import clip_id, read_manifest, schema, stage_records, write_table
from cogvideox.curation.stage import Column, check_columns, fingerprint
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Length:
    name = "length"
    version = 1
    reads = ()
    columns = (Column("seconds", "float", "Duration.", "s", 0.0),)
    limit: int = 3
    model: str = ""

    def weights_hash(self) -> str:
        return self.model


@dataclass(frozen=True)
class Rate:
    name = "rate"
    version = 1
    reads = ("seconds",)
    columns = (Column("rate", "float", "Rate."),)

    def weights_hash(self) -> str:
        return ""


def test_fingerprint_changes_with_parameters_weights_version_and_what_is_read(monkeypatch):
    length, rate = Length(), Rate()
    prints = [fingerprint(length), fingerprint(replace(length, limit=4)), fingerprint(replace(length, model="x"))]
    assert len(set(prints)) == 3
    assert fingerprint(rate, [length, rate]) != fingerprint(rate, [replace(length, limit=4), rate])
    assert fingerprint(length, [length, rate]) == fingerprint(length)
    monkeypatch.setattr(Length, "version", 2)
    assert fingerprint(Length()) not in prints


def test_columns_have_one_writer_and_exist_before_they_are_read():
    check_columns([Length(), Rate()])
    with pytest.raises(ValueError, match="reads seconds"):
        check_columns([Rate(), Length()])
    with pytest.raises(ValueError, match="written by both"):
        check_columns([Length(), Length()])


def test_manifest_keeps_types_units_and_records(tmp_path):
    import pyarrow as pa

    table = pa.Table.from_pylist([{"id": "a", "seconds": 1.5}], schema=schema(Length.columns, {"length": {"limit": 3}}))
    write_table(table, tmp_path / "manifest.parquet")
    loaded = read_manifest(tmp_path)
    assert loaded.equals(table)
    assert loaded.schema.field("seconds").metadata[b"unit"] == b"s"
    assert stage_records(loaded) == {"length": {"limit": 3}}


def test_other_files_are_not_manifests(tmp_path):
    import pyarrow as pa

    with pytest.raises(UserError, match="does not exist"):
        read_manifest(tmp_path)
    write_table(pa.table({"id": ["a"]}), tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match="it is not a manifest"):
        read_manifest(tmp_path)


def test_clip_ids_depend_on_content_and_times_only():
    assert clip_id("a", 0.0, 1.0) == clip_id("a", 0.0, 1.0)
    assert len({clip_id("a", 0.0, 1.0), clip_id("b", 0.0, 1.0), clip_id("a", 0.0, 1.5), clip_id("a", 0.5, 1.0)}) == 4
