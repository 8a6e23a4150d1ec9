"""Data sets by their name on Hugging Face's hub, streamed: nothing is downloaded beforehand.

`hf://NAME?split=train&config=C&revision=R`; split is "train" if it is not given. NAME may also be the full path
of a folder on disk that `datasets.load_dataset` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.tables import Rows, as_rows, check_columns, column_names

OPTIONS = ("split", "config", "revision")
ROWS_TOGETHER = 1000


def hub_name(path: Path) -> str:
    """As the user wrote it: of several slashes, a Path has one."""
    name = str(path).removeprefix("hf:")
    is_folder = name.startswith("/") and Path(name.partition("?")[0]).exists()
    return f"hf://{name if is_folder else name.removeprefix('/')}"


def stream_rows(path: Path, keys: list[str], skip: int) -> Iterator[Rows]:
    """At most 1,000 rows together, with these columns, after the first `skip` rows.

    Raises:
        DataError: no such data set, split or column, or it cannot be reached.
    """
    from datasets import load_dataset

    name, _, query = hub_name(path).removeprefix("hf://").partition("?")
    options = dict(parse_qsl(query))
    unknown = [option for option in options if option not in OPTIONS]
    if unknown:
        raise DataError(f"{hub_name(path)}: unknown {', '.join(unknown)}; there are {', '.join(OPTIONS)}")
    try:
        rows = load_dataset(
            name,
            options.get("config"),
            split=options.get("split", "train"),
            revision=options.get("revision"),
            streaming=True,
        )
        tables = rows.with_format("arrow")
        schema = rows.features.arrow_schema if rows.features else next(tables.iter(1)).schema
        check_columns(hub_name(path), schema, keys)
        for table in tables.select_columns(column_names(schema, keys)).skip(skip).iter(ROWS_TOGETHER):
            yield as_rows(table, keys)
    except DataError:
        raise
    except Exception as error:  # whatever is wrong on the way, from names to networks
        raise DataError(f"{hub_name(path)}: cannot be read ({type(error).__name__}: {error})") from error
