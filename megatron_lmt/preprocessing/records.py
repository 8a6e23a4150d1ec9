"""Text as it comes: documents, pairs and aligned lines from plain or compressed files.

Lines end at "\\n" or "\\r\\n" and nowhere else, because text contains U+2028, U+0085 and their like. Nothing is normalised:
joiners and format characters carry meaning in Inner Mongolian, Persian and the Indic scripts.

Next on the path: `corpus/cpt.py` writes training records from these.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.compression import DAMAGES, FORMATS, decompressed


def without_mark_and_end(line: bytes, number: int) -> bytes:
    """A line without its end and, if it is the first, without the byte-order mark that some programs put before UTF-8."""
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    return line.removeprefix(BOM_UTF8) if number == 1 else line


class BadRecord(DataError):
    """One record that cannot be used.

    Args:
        reason: a short code to count by: not_utf8, broken_json, wrong_type, missing_key, empty, lone_surrogate, too_long.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        yield decompressed(file, path)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end).

    Raises:
        DataError: not UTF-8, or a damaged compressed file; with the line.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for raw in file:
                number += 1
                yield number, without_mark_and_end(raw, number).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except DAMAGES as error:
        raise DataError(f"{path}:{number + 1}: damaged {FORMATS[path.suffix]} file ({error})") from None


def parse_record(line: str, keys: list[str], where: str) -> list[str]:
    """The texts under `keys` of one line of a jsonl file.

    Raises:
        BadRecord: not a JSON object, or a key that is missing, not a string, empty, or not valid Unicode.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "; each line must be a record of its own" if line.strip() in ("{", "[") else ""
        raise BadRecord("broken_json", f"{where}: not JSON ({error}){hint}") from None
    if not isinstance(record, dict):
        raise BadRecord("wrong_type", f"{where}: a {type(record).__name__}, not a JSON object")
    texts = []
    for key in keys:
        try:
            texts.append(value_at(record, key))
        except (KeyError, TypeError):
            raise BadRecord("missing_key", f"{where}: no key {key!r}; there are {_keys(record)}") from None
        check_text(texts[-1], f"{where}: {key!r}")
    return texts


def value_at(record: Any, key: str) -> Any:
    """What is under a key, or where there is none such, under a path of keys with dots, as `translation.en`.

    Raises:
        KeyError, TypeError: nothing.
    """
    try:
        return record[key]
    except KeyError:
        name, dot, rest = key.partition(".")
        if not dot:
            raise
        return value_at(record[name], rest)


def _keys(record: dict[str, Any]) -> list[str]:
    """All, those inside of objects as paths."""
    inside = [(key, _keys(value) if isinstance(value, dict) else []) for key, value in record.items()]
    return sorted(path for key, paths in inside for path in ([f"{key}.{name}" for name in paths] or [key]))


def check_text(text: Any, what: str) -> None:
    """
    Raises:
        BadRecord: not a string, empty, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise BadRecord("wrong_type", f"{what} is {text!r:.80}, not a text")
    if not text.strip():
        raise BadRecord("empty", f"{what} is {text!r:.80}, not a text")
    if not _is_valid_unicode(text):
        raise BadRecord("lone_surrogate", f"{what} contains a lone surrogate, which is not valid Unicode")


def _is_valid_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_documents(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of a jsonl file with the key `text`, or of a plain file with one document a line."""
    is_jsonl = ".jsonl" in path.suffixes
    for number, line in read_lines(path):
        if is_jsonl:
            (line,) = parse_record(line, ["text"], f"{path}:{number}")
        elif not line.strip():
            raise DataError(f"{path}:{number}: an empty line where a document should be")
        yield number, line


def read_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, source, target): the first two columns of a tab-separated file; others are ignored."""
    for number, line in read_lines(path):
        columns = line.split("\t")
        if len(columns) < 2 or not columns[0].strip() or not columns[1].strip():
            raise DataError(f"{path}:{number}: needs two columns with text, separated by a tab; it is {line[:80]!r}")
        yield number, columns[0], columns[1]


def read_aligned(paths: list[Path]) -> Iterator[tuple[int, list[str]]]:
    """(line number, that line of each file), for files where the same line means the same.

    Raises:
        DataError: an empty line, or files of different length.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(closing(read_lines(path))) for path in paths]
        for lines in zip_longest(*files):
            number = next(line[0] for line in lines if line)
            short = [str(path) for path, line in zip(paths, lines, strict=True) if line is None]
            if short:
                counts = ", ".join(f"{path} {sum(1 for _ in read_lines(path))}" for path in paths)
                raise DataError(
                    f"{', '.join(short)}: ends before line {number}, which files aligned with it have (lines: {counts})"
                )
            for path, (_, line) in zip(paths, lines, strict=True):
                if not line.strip():
                    raise DataError(f"{path}:{number}: an empty line among aligned sentences")
            yield number, [line for _, line in lines]
