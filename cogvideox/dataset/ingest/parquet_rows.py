"""Rows of Parquet files. Columns are read one by one, so that a damaged column does not affect the others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cogvideox.untrusted.files import check_limit, reading

UNUSABLE: list[Any] = []
"""The value in columns that are damaged, or contain neither numbers nor strings."""


def parquet_rows(path: Path, is_string: Callable[[str], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, row) for the rows of a Parquet file.

    Args:
        is_string: returns whether the column with this name contains strings, even if they are stored as bytes.

    Raises:
        UserError: the file is damaged or above a limit.
    """
    from pyarrow import parquet

    with reading(path, "damaged or not a Parquet file"), path.open("rb") as opened:  # pyarrow needs names in UTF-8
        file = parquet.ParquetFile(opened)
        check_limit("ROWS", file.metadata.num_rows, f"cannot read {path}: its number of rows")
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        num_bytes = sum(group.total_byte_size for group in groups)
        check_limit("TABLE_BYTES", num_bytes, f"cannot read {path}: its unpacked size in bytes")
        fields = list(file.schema_arrow)
        names = [field.name for field in fields if _is_string(_kind(field)) or _is_binary(_kind(field))]
        # As dictionaries, because a small file may unpack to many copies of a long string.
        file = parquet.ParquetFile(opened, read_dictionary=names)
        columns: dict[str, Any] = {}
        for field in fields:
            if field.name not in columns:
                columns[field.name] = _values(file, field, is_string(field.name))
        for index in range(file.metadata.num_rows):
            yield index + 1, {name: values[index] for name, values in columns.items()}


def _values(file: Any, field: Any, decode_bytes: bool) -> Any:
    """Return the values of a column as Python objects."""
    import pyarrow as pa
    from pyarrow import types

    kind = _kind(field)
    is_number = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    if not (_is_string(kind) or is_number or types.is_null(kind) or (_is_binary(kind) and decode_bytes)):
        return _Constant(UNUSABLE)
    try:
        column = file.read(columns=[field.name]).column(field.name)
        if _is_string(kind) or _is_binary(kind):
            return _strings(column)
        if types.is_dictionary(column.type):
            column = column.cast(kind)
        return (column.cast(pa.float64()) if types.is_float16(kind) else column).to_pylist()
    except Exception:  # a damaged page, or a name that occurs twice
        return _Constant(UNUSABLE)


def _strings(column: Any) -> list[str | None]:
    """Return the strings of a column, which may be invalid UTF-8. Equal strings are the same object, to save memory."""
    import pyarrow as pa
    from pyarrow import types

    if not types.is_dictionary(column.type):
        column = column.cast(pa.large_binary()).dictionary_encode()
    strings: list[str | None] = []
    for chunk in column.chunks:
        stored = chunk.dictionary.cast(pa.large_binary()).to_pylist()
        values = [value if value is None else value.decode("utf-8", "surrogateescape") for value in stored]
        strings += [None if index is None else values[index] for index in chunk.indices.to_pylist()]
    return strings


def _kind(field: Any) -> Any:
    from pyarrow import types

    return field.type.value_type if types.is_dictionary(field.type) else field.type


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


class _Constant:
    """The same value at every index."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getitem__(self, index: int) -> Any:
        return self.value
