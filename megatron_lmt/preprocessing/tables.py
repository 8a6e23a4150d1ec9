"""Rows of parquet files and of folders that Hugging Face `datasets` saved, some megabyte of text together.

Texts come as UTF-8 bytes, as they are in the file: they are decoded, and found bad, by the tokenising processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_lmt.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Rows = list[dict[str, Any]]


def is_dataset_folder(path: Path) -> bool:
    """Whether `datasets` saved it (`Dataset.save_to_disk`), with one split or several."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def read_rows(path: Path, keys: list[str], skip: int, bytes_together: int) -> Iterator[tuple[Rows, float]]:
    """Rows with these keys, after the first `skip`; with each batch, its part of the whole file.

    Batches begin at the same rows for any `skip` that was the end of one.

    Raises:
        DataError: not such a file, or it has no such column.
    """
    import pyarrow

    read = _read_dataset if path.is_dir() else _read_parquet
    try:
        for table, part in read(path, keys, skip, bytes_together):
            yield as_rows(table, keys), part
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy or make it again") from None


def check_columns(name: Path | str, schema: pa.Schema, keys: list[str]) -> None:
    """
    Raises:
        DataError: some of the keys are neither columns nor fields of one, such as `translation.en`.
    """
    missing = [key for key in keys if not _has(schema, key)]
    if missing:
        raise DataError(f"{name}: no column {', '.join(missing)}; there are {', '.join(sorted(_names(schema)))}")


def _has(schema: pa.Schema, key: str) -> bool:
    try:
        _column(schema.empty_table(), key)
    except KeyError:
        return False
    return True


def _names(fields: Iterable[pa.Field], inside: str = "") -> Iterator[str]:
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _names(field.type, f"{inside}{field.name}.")
        else:
            yield inside + field.name


def column_names(schema: pa.Schema, keys: list[str]) -> list[str]:
    """The columns that hold these keys."""
    return list(dict.fromkeys(key if key in schema.names else key.partition(".")[0] for key in keys))


def _read_parquet(path: Path, keys: list[str], skip: int, bytes_together: int) -> Iterator[tuple[pa.RecordBatch, float]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        check_columns(path, file.schema_arrow, keys)
        first = 0
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if first + group.num_rows > skip:
                size = _rows_together(group.num_rows, group.total_byte_size, bytes_together)
                for batch in file.iter_batches(size, row_groups=[number], columns=keys):
                    if first >= skip:
                        yield batch, batch.num_rows / file.metadata.num_rows
                    first += batch.num_rows
            else:
                first += group.num_rows


def _read_dataset(path: Path, keys: list[str], skip: int, bytes_together: int) -> Iterator[tuple[pa.Table, float]]:
    from datasets import load_from_disk

    if not (path / "state.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        raise DataError(f"{path}: a dataset with the splits {', '.join(splits)}; name one, such as {path / splits[0]}")
    dataset = load_from_disk(str(path))
    schema = dataset.features.arrow_schema
    check_columns(path, schema, keys)
    size = _rows_together(len(dataset), dataset.data.nbytes, bytes_together)
    rows = dataset.select_columns(column_names(schema, keys)).select(range(skip, len(dataset))).with_format("arrow")
    for table in rows.iter(size):
        yield table, table.num_rows / len(dataset)


def _rows_together(rows: int, size: int, bytes_together: int) -> int:
    return max(1, min(rows, bytes_together * rows // max(size, 1)))


def as_rows(table: pa.RecordBatch | pa.Table, keys: list[str]) -> Rows:
    """Key → value; texts come as bytes."""
    columns = {key: _values(_column(table, key)) for key in keys}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(table: pa.RecordBatch | pa.Table, key: str) -> pa.Array | pa.ChunkedArray:
    """A column, or a field of one, which is null where the column is; found as `value_at` of records.py does.

    Raises:
        KeyError: nothing.
    """
    import pyarrow as pa
    from pyarrow.compute import struct_field

    (name,) = column_names(table.schema, [key])
    column, rest = table.column(name), key[len(name) + 1 :]
    while rest:
        names = [field.name for field in column.type] if pa.types.is_struct(column.type) else []
        name = rest if rest in names else rest.partition(".")[0]
        if name not in names:
            raise KeyError(key)
        column, rest = struct_field(column, names.index(name)), rest[len(name) + 1 :]
    return column


def _values(column: pa.Array | pa.ChunkedArray) -> list:
    """Strings as bytes: pyarrow would raise an error for the whole column where one is not UTF-8."""
    import pyarrow as pa

    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    plain = [chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk for chunk in chunks]
    is_text = (pa.types.is_string, pa.types.is_large_string)
    binary = [chunk.cast(pa.large_binary()) if any(check(chunk.type) for check in is_text) else chunk for chunk in plain]
    return list(chain.from_iterable(chunk.to_pylist() for chunk in binary))
