"""What the corpus builders share: the inputs named in their TOML file, and the folder they write.

Inputs are monolingual documents, files of pairs, and multi-way text with one line-aligned file for each language.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from pydantic import field_validator, model_validator

from megatron_lmt.corpus.clean_config import CleanSection, DocumentOverride, PairOverride, for_source
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.files import no_file, write_json_atomically
from megatron_lmt.languages import among, check_languages, languages, pairs, split_direction
from megatron_lmt.preprocessing.inputs import CORPUS_REPORT
from megatron_lmt.preprocessing.records import read_aligned, read_documents, read_pairs
from megatron_lmt.progress import progress
from megatron_lmt.toml_config import Section, as_value_error, check_placeholders


class Monolingual(Section):
    """`[[monolingual]]`: one file of documents for each language; `{language}` in the path."""

    path: str
    languages: list[str] | str
    clean: DocumentOverride = DocumentOverride()

    @field_validator("languages")
    @classmethod
    def _known(cls, value: list[str] | str) -> list[str]:
        return list(languages()) if value == "all" else as_value_error(_checked_languages, value)

    @model_validator(mode="after")
    def _check_path(self):
        check_placeholders(self.path, required={"language"}, allowed={"language"})
        return self


class Parallel(Section):
    """`pairs` is a list such as ["en-de"], or a group: "en-centric", "zh-centric", "all".

    `languages` beside a group: only its pairs between two of these.
    """

    path: str
    pairs: list[str] | str
    languages: list[str] | None = None
    exclude: list[str] = []
    clean: PairOverride = PairOverride()

    @model_validator(mode="after")
    def _check_pairs(self):
        as_value_error(self.names)
        return self

    def names(self) -> list[str]:
        """The pairs, without the excluded ones."""
        chosen = pairs(self.pairs) if isinstance(self.pairs, str) else self.pairs
        if self.languages is not None:
            if not isinstance(self.pairs, str):
                raise ConfigError('languages goes with a group of pairs, such as pairs = "all"; a list names its own')
            chosen = among(chosen, self.languages)
        for pair in chosen:
            split_direction(pair)
        absent = [pair for pair in self.exclude if pair not in chosen]
        if absent:
            raise ConfigError(f"exclude names {absent}, which are not among the pairs")
        return [pair for pair in chosen if pair not in self.exclude]


class Pairs(Parallel):
    """`[[pairs]]`: one tsv file for each pair; `{source}` and `{target}` in the path."""

    @model_validator(mode="after")
    def _check_path(self):
        check_placeholders(self.path, required={"source", "target"}, allowed={"source", "target"})
        return self


class Aligned(Parallel):
    """`[[aligned]]`: one file for each language, line-aligned, of which pairs are made; `{language}` in the path."""

    @model_validator(mode="after")
    def _check_path(self):
        check_placeholders(self.path, required={"language"}, allowed={"language"})
        return self


class CorpusConfig(Section):
    """Keys that both builders have. Paths are relative to `root`, and `root` to the folder of the TOML file."""

    root: str = "."
    seed: int = 1234
    pairs: list[Pairs] = []
    aligned: list[Aligned] = []
    clean: CleanSection = CleanSection()


def _checked_languages(codes: list[str] | str) -> list[str]:
    codes = [codes] if isinstance(codes, str) else codes
    check_languages(codes)
    return codes


def resolve_root(root: str, config_file: Path) -> Path:
    """`root` with environment variables filled in, relative to the folder of the config.

    Raises:
        ConfigError: a variable is not set, or there is no such folder.
    """
    expanded = os.path.expandvars(root)
    folder = (config_file.resolve().parent / expanded).resolve()
    if "$" in expanded or not folder.is_dir():
        raise ConfigError(f"{config_file}: root = {root!r}: no such folder ({expanded}); set the variable, or give --root")
    return folder


@dataclass(frozen=True)
class TextFile:
    """Documents of one language. `name` is the path as the config has it: it says where a record is from."""

    name: str
    path: Path
    language: str
    clean: CleanSection = field(default=CleanSection(), kw_only=True)

    @property
    def languages(self) -> tuple[str]:
        return (self.language,)

    @property
    def paths(self) -> list[Path]:
        return [self.path]

    def records(self) -> Iterator[tuple[int, str]]:
        return read_documents(self.path)


@dataclass(frozen=True)
class PairFiles:
    """Sentence pairs of `source` and `target`, from one tsv file or from two aligned ones."""

    name: str
    paths: list[Path]
    source: str
    target: str
    clean: CleanSection = field(default=CleanSection(), kw_only=True)

    @property
    def languages(self) -> tuple[str, str]:
        return self.source, self.target

    @property
    def direction(self) -> str:
        return f"{self.source}-{self.target}"

    def records(self) -> Iterator[tuple[int, str, str]]:
        """(line number, source sentence, target sentence)"""
        if len(self.paths) == 1:
            yield from read_pairs(self.paths[0])
        else:
            for number, (source, target) in read_aligned(self.paths):
                yield number, source, target


def text_files(sections: list[Monolingual], clean: CleanSection, root: Path) -> list[TextFile]:
    return [
        TextFile(name := section.path.format(language=code), root / name, code, clean=for_source(clean, section.clean))
        for section in sections
        for code in section.languages
    ]


def pair_files(config: CorpusConfig, root: Path) -> list[PairFiles]:
    """One for each pair of each section, in the order of the file."""
    found = []
    for section in config.pairs:
        clean = for_source(config.clean, section.clean)
        for source, target in map(split_direction, section.names()):
            name = section.path.format(source=source, target=target)
            found.append(PairFiles(name, [root / name], source, target, clean=clean))
    for section in config.aligned:
        clean = for_source(config.clean, section.clean)
        for source, target in map(split_direction, section.names()):
            names = [section.path.format(language=code) for code in (source, target)]
            found.append(PairFiles("+".join(names), [root / name for name in names], source, target, clean=clean))
    return found


def check_inputs(inputs: list[TextFile | PairFiles]) -> None:
    """
    Raises:
        DataError: files that are not there and inputs that are named twice, all of them; or there is no input at all.
    """
    problems = [no_file(path) for path in dict.fromkeys(p for i in inputs for p in i.paths) if not path.is_file()]
    times = Counter(frozenset(source.paths) for source in inputs)
    problems += [
        f"{' and '.join(map(str, sorted(paths)))}: named {count} times, so each record would be there {count} times; "
        "name it once, for one pair and in one orientation"
        for paths, count in times.items()
        if count > 1
    ]
    if problems or not inputs:
        raise DataError(problems or "no input: name [[monolingual]], [[pairs]] or [[aligned]] files")


class CorpusFolder:
    """A new folder of jsonl files, one for each source; it gets its name only when all of it is written.

    Errors of the disk, and of tables beside the files, leave it as a DataError.

    Args:
        output: must not exist.
    """

    MOST_OPEN_FILES = 100
    """A laptop may allow 256 in a process; a corpus has 294."""

    def __init__(self, output: Path):
        self.output = output
        self._unfinished = output.with_name(output.name + ".unfinished")
        if output.exists():
            raise ConfigError(f"{output} exists already and is not written over: delete it or name another folder")
        if self._unfinished.exists():
            raise ConfigError(f"{self._unfinished} is what an interrupted run left behind: delete it")
        self._files: dict[str, TextIO] = {}
        self.records: dict[str, int] = {}

    def __enter__(self) -> CorpusFolder:
        try:
            self._unfinished.mkdir(parents=True)
        except OSError as error:
            raise self._stopped(error) from error
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk, which `error` names
                file.close()
        if self._unfinished.exists():
            shutil.rmtree(self._unfinished)
        if isinstance(error, (OSError, sqlite3.Error)):  # the disk is full, or an input went away
            raise self._stopped(error) from error

    def _stopped(self, error: Exception) -> DataError:
        return DataError(f"{self.output}: stopped: {error}; nothing is left of it: mend that and start again")

    @property
    def rejected_file(self) -> Path:
        """Where rejected records are written; when all is finished it is `<output>.rejected.jsonl.gz`, beside the folder."""
        return self._unfinished / "rejected.jsonl.gz"

    def scratch_file(self, name: str) -> Path:
        """For what must be on disk while the folder is written."""
        (self._unfinished / "scratch").mkdir(exist_ok=True)
        return self._unfinished / "scratch" / name

    def add(self, name: str, record: dict[str, str]) -> None:
        """Append a record to `<name>.jsonl`."""
        if name not in self._files:
            if len(self._files) == self.MOST_OPEN_FILES:
                self._close_files()
            self._files[name] = open(self._path(name), "a", encoding="utf-8")
        self._files[name].write(json.dumps(record, ensure_ascii=False) + "\n")
        self.records[name] = self.records.get(name, 0) + 1

    def finish(self, summary: dict) -> None:
        """Write corpus.json and give the folder its name.

        Raises:
            DataError: there is no record.
        """
        if not self.records:
            raise DataError(f"no record was made; {self.output} was not written")
        self._close_files()
        sizes = {name: self._path(name).stat().st_size for name in self.records}
        write_json_atomically(self._unfinished / CORPUS_REPORT, {**summary, "records": self.records, "bytes": sizes})
        shutil.rmtree(self._unfinished / "scratch", ignore_errors=True)
        if self.rejected_file.exists():  # not in the folder: all jsonl files there are inputs of the tokenizer
            self.rejected_file.rename(self.output.with_name(self.output.name + ".rejected.jsonl.gz"))
        self._unfinished.rename(self.output)

    def _path(self, name: str) -> Path:
        return self._unfinished / f"{name}.jsonl"

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def read_inputs(inputs: list[TextFile | PairFiles], read: dict[str, int]) -> Iterator[tuple]:
    """(input, line number, text or both sentences) for every record of all inputs, with a progress bar over their bytes.

    Args:
        read: gets the number of records of each input, by its name.
    Raises:
        DataError: the first bad line, or an input without a record.
    """
    sizes = [sum(path.stat().st_size for path in source.paths) for source in inputs]
    with progress(sum(sizes), "building") as bar:
        for source, size in zip(inputs, sizes, strict=True):
            read[source.name] = 0
            for record in source.records():
                read[source.name] += 1
                yield source, *record
            if not read[source.name]:
                raise DataError(f"{' '.join(map(str, source.paths))}: no record in it")
            bar.update(size)
