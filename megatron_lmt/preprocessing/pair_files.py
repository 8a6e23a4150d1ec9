"""Pairs from two aligned files and from TMX, some megabyte together: (source, target) as UTF-8 bytes.

A side that is too long comes as its beginning, of one byte more than the limit, which the tokenising processes reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.compression import DAMAGES, FORMATS, decompressed
from megatron_lmt.preprocessing.records import without_mark_and_end

Pair = tuple[bytes | None, bytes | None]
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
CODES = {"ep", "ept", "bpt", "ph", "it", "ut"}
"""Elements of TMX that hold codes of a formatting program, which are no text."""


def read_aligned_pairs(paths: tuple[Path, ...], skip: int, max_bytes: int) -> Iterator[tuple[Pair, int]]:
    """Each pair of lines after the first `skip`, and its bytes.

    Raises:
        DataError: one file is shorter, or damaged.
    """
    with ExitStack() as stack:
        files = [decompressed(stack.enter_context(open(path, "rb")), path) for path in paths]
        for number in count(1):
            lines = [_line(file, path, number, max_bytes) for file, path in zip(files, paths, strict=True)]
            if not any(lines):
                return
            if not all(lines):
                short = paths[lines.index(b"")]
                other = paths[1 - lines.index(b"")]
                raise DataError(f"{short}: ends before line {number}, which {other} has; give files that are aligned")
            if number > skip:
                yield tuple(without_mark_and_end(line, number) for line in lines), sum(map(len, lines))


def _line(file: BinaryIO, path: Path, number: int, max_bytes: int) -> bytes:
    """b"" at the end of the file; of a line that is too long, the beginning."""
    try:
        line = part = file.readline(max_bytes + 2)
        while part and not part.endswith(b"\n"):
            part = file.readline(1 << 20)
        return line[: max_bytes + 1] if len(line) > max_bytes + 1 else line
    except DAMAGES as error:
        raise DataError(f"{path}:{number}: damaged {FORMATS[path.suffix]} file ({error}); copy it again") from None


def read_tmx(path: Path, source: str, target: str, skip: int, max_bytes: int) -> Iterator[tuple[Pair, int]]:
    """Each translation unit after the first `skip`, and its bytes; None for a language that it does not have.

    A unit's language is the one asked for if it is equal to it, or begins with it: EN-US is English.

    Raises:
        DataError: not XML, or damaged.
    """
    number = 0
    try:
        with open(path, "rb") as file:
            units = iterparse(decompressed(file, path), events=("start", "end"))
            _, root = next(units)
            for event, element in units:
                if event == "end" and element.tag == "tu":
                    number += 1
                    if number > skip:
                        pair = tuple(_segment(element, language, max_bytes) for language in (source, target))
                        yield pair, sum(len(side) for side in pair if side)
                    element.clear()
                    for child in root:  # the body, which would hold an empty element for each unit
                        child.clear()
    except ParseError as error:
        raise DataError(f"{path}: not XML ({error}), after unit {number}; mend it or copy it again") from None
    except DAMAGES as error:
        raise DataError(
            f"{path}: damaged {FORMATS[path.suffix]} file after unit {number} ({error}); copy it again"
        ) from None


def _segment(unit: Element, language: str, max_bytes: int) -> bytes | None:
    variants = {(tuv.get(XML_LANGUAGE) or tuv.get("lang") or "").lower(): tuv for tuv in unit.iter("tuv")}
    names = [name for name in variants if name == language.lower()]
    names += [name for name in variants if name.partition("-")[0] == language.lower()]
    segment = variants[names[0]].find("seg") if names else None
    return None if segment is None else "".join(_text(segment)).encode("utf-8")[: max_bytes + 1]


def _text(element: Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag not in CODES:
            yield from _text(child)
        yield child.tail or ""
