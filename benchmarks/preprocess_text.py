"""Text to measure preprocessing with: jsonl of real documents and sentence pairs in 60 languages, each record once.

"short" are sentence pairs (some 60 tokens), "long" are documents and, where these are used up, pieces of aligned text of
20 lines; "all" is both: first "half", every second record, then the others; "again" is all four times, as a long run, in
which most words have been seen before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from megatron_lmt.errors import DataError

LINES_TOGETHER = 20
FREE_TOKENS = 60
"""Of each document where tokenization is free."""


def write_text(data: Path, folder: Path, megabytes: int) -> dict[str, Path]:
    """Name → jsonl file: `one` record, `short` and `long` of about this size, `half`, `all` and `again` of all text.

    Raises:
        DataError: there is less text than that.
    """
    whole = {"short": list(_as_lines(_pairs(data))), "long": list(_as_lines(chain(_documents(data), _aligned(data))))}
    short_of = [f"{name} {size:,}" for name, lines in whole.items() if (size := sum(map(len, lines))) < megabytes * 1e6]
    if short_of:
        raise DataError(f"{data}: less text than --megabytes {megabytes}: {', '.join(short_of)} bytes")
    files = {name: _write(folder / f"{name}.jsonl", lines, megabytes * 1_000_000) for name, lines in whole.items()}
    files["one"] = _write(folder / "one.jsonl", whole["long"][:1])
    together = whole["short"] + whole["long"]
    half = together[::2]
    files["half"] = _write(folder / "half.jsonl", half)
    files["all"] = _write(folder / "all.jsonl", half + together[1::2])
    files["again"] = _write(folder / "again.jsonl", 4 * (half + together[1::2]))
    return files


def _write(path: Path, lines: list[bytes], most: int | None = None) -> Path:
    """An equal share of all of them, so that a small file has every language too."""
    total = sum(map(len, lines))
    kept = min(1, (most or total) / total)
    with open(path, "wb") as file:
        for number, line in enumerate(lines):
            if int((number + 1) * kept) > int(number * kept):
                file.write(line)
    return path


def _as_lines(texts: Iterator[str]) -> Iterator[bytes]:
    for text in texts:
        yield json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rb") as file:
        for line in file:
            yield line.removesuffix(b"\n").decode()


def _documents(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("mono/*.jsonl.gz")):
        for line in _lines(path):
            yield json.loads(line)["text"]


def _pairs(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("bilingual/*.tsv.gz")):
        source, target = path.name.removesuffix(".tsv.gz").split("-")
        for line in _lines(path):
            columns = line.split("\t")
            yield f"<{source}2{target}> {columns[0]} <{target}> {columns[1]}"


def _aligned(data: Path) -> Iterator[str]:
    for path in sorted([*data.glob("ntrex/*.txt.gz"), *data.glob("flores200_dev/flores.*.gz")]):
        lines = list(_lines(path))
        for start in range(0, len(lines), LINES_TOGETHER):
            yield "\n".join(lines[start : start + LINES_TOGETHER])
