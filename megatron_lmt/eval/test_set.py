"""A test set: a folder with one file for each language, aligned line by line; and the directions to be evaluated on it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from megatron_lmt import languages as table
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.preprocessing.records import read_lines

ALL = "all-234"
RECORDS = frozenset({"json", "jsonl", "tsv", "csv", "parquet"})
"""Endings of files whose lines are no sentences."""


class TestSet:
    """Sentences of a folder by language.

    A file belongs to the language whose code is a part of its name: `en.txt`, `flores.dev.en.gz`, `ntrex.zh.txt.gz`; also
    FLORES-200's own names such as `eng_Latn.devtest`. Other files are left alone.

    Raises:
        ConfigError: no such folder, no file of a language in it, or two of the same language.
    """

    __test__ = False  # no class of tests, whatever pytest thinks of its name

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; a test set has one file for each language")
        self.folder = folder
        self.files: dict[str, Path] = {}
        problems = []
        for file in sorted(folder.iterdir()):
            code = _language_of(file.name)
            if code in self.files:
                problems.append(f"{folder}: {self.files[code].name} and {file.name} are both of {code}; keep one of them")
            elif code:
                self.files[code] = file
        if not self.files:
            problems.append(f"{folder}: no file with a language code in its name, such as en.txt or flores.dev.en.gz")
        if problems:
            raise ConfigError(problems)

    def read(self, codes: Iterable[str], max_lines: int | None = None) -> dict[str, list[str]]:
        """Language → its sentences, of the first `max_lines` lines, all of the same number.

        Raises:
            DataError: files of different lengths, or lines without text, in which case nothing can be aligned with them.
        """
        texts = {code: [line.removesuffix("\r") for _, line in read_lines(self.files[code])] for code in codes}
        lengths = {code: len(lines) for code, lines in texts.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{self.files[code].name} {length}" for code, length in lengths.items())
            raise DataError(f"{self.folder}: files are not aligned, they have different numbers of lines: {found}")
        texts = {code: lines[:max_lines] for code, lines in texts.items()}
        problems = [
            f"{self.files[code]}:{number}: no text"
            for code, lines in texts.items()
            for number, line in enumerate(lines, start=1)
            if not line.strip()
        ]
        if problems or not any(lengths.values()):
            raise DataError(problems or f"{self.folder}: the files are empty")
        return texts

    def directions(self, names: list[str]) -> tuple[list[str], list[str]]:
        """The directions that are named, each once, in order; and those of named groups that the folder lacks.

        Args:
            names: directions such as "en-ky", groups such as "x-zh", or "all-234".
        Raises:
            ConfigError: unknown names, or single directions without files here.
        """
        wanted: dict[str, bool] = {}  # whether it was named itself
        problems = []
        for name in names:
            if name in (*table.GROUPS, ALL):
                for direction in table.directions(name.removesuffix("-234")):
                    wanted.setdefault(direction, False)
                continue
            try:
                table.split_direction(name)
                wanted[name] = True
            except ConfigError as error:
                groups = ", ".join((*table.GROUPS, ALL))
                problems += [f"{problem}; groups are {groups}" for problem in error.problems]
        lacking = [direction for direction in wanted if not set(direction.split("-")) <= self.files.keys()]
        for direction in lacking:
            if wanted[direction]:
                missing = sorted(set(direction.split("-")) - self.files.keys())
                problems.append(f"direction {direction}: no file of {' and '.join(missing)} in {self.folder}")
        found = [direction for direction in wanted if direction not in lacking]
        if not found and not problems:
            problems.append(f"{self.folder}: no direction of {' '.join(names)} has both its files here")
        if problems:
            raise ConfigError(problems)
        return found, lacking


def _language_of(file_name: str) -> str | None:
    if not RECORDS.isdisjoint(file_name.split(".")):
        return None
    codes = {_codes().get(part) for part in file_name.split(".")} - {None}
    return codes.pop() if len(codes) == 1 else None


@cache
def _codes() -> dict[str, str]:
    """A part of a file's name → the language's code here."""
    with open(Path(table.__file__).with_name("languages.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {name: row["code"] for row in rows for name in (row["code"], row["flores200_code"]) if name != "-"}
