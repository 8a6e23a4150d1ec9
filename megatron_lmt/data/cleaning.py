"""Cleaning in the corpus builders: what a rule of `[clean]` rejects is counted, and kept beside the output.

The first rule that rejects a record is the one that is counted. Rules that look at one record come first, because what they
reject must not make a later copy of it a duplicate. Texts are never changed.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_lmt.data.clean_rules import Record, Rejection, Rule, record_rules
from megatron_lmt.data.corpus_files import CorpusFolder, PairFiles, TextFile
from megatron_lmt.data.duplicates import NearDuplicates, SeenHashes, duplicate
from megatron_lmt.data.evaluation_overlap import EvaluationSentences
from megatron_lmt.data.quality import Quality
from megatron_lmt.errors import DataError, Problems
from megatron_lmt.toml_config import Section


class Cleaner:
    """Asks the rules of each input, and counts what they reject.

    Args:
        inputs: each with its rules (`clean`).
        root: of the paths in the rules.
        corpus: the folder that is written; hashes are on disk beside it meanwhile.
    Raises:
        UserError: a file that a rule needs is not there, or a library is not (all of them).
    """

    def __init__(self, inputs: list[TextFile | PairFiles], root: Path, corpus: CorpusFolder):
        self._root = root
        self._corpus = corpus
        self._stack = ExitStack()
        self._file: gzip.GzipFile | None = None
        self._shared: dict[str, Any] = {}
        self._quality: dict[str, Quality] = {}
        self._rejected: dict[str, Counter[str]] = {source.name: Counter() for source in inputs}
        problems = Problems()
        self._rules = {source.name: problems.of(self._rules_of, source) for source in inputs}
        problems.raise_if_any()

    def _rules_of(self, source: TextFile | PairFiles) -> list[Rule]:
        clean, is_pair = source.clean, isinstance(source, PairFiles)
        rules = record_rules(clean, is_pair)
        if clean.quality and is_pair:
            quality = Quality(clean.quality, source.paths, self._root, source.source, source.target)
            self._quality[source.name] = quality
            rules.append(quality.check)
        if rule := clean.evaluation:
            rules.append(self._share(rule, lambda: EvaluationSentences(rule, self._root)).check)
        if rule := clean.duplicates:
            rules.append(duplicate(rule, self._share(rule, lambda: self._seen_hashes(rule.cache_mb))))
        if rule := clean.near_duplicates:
            rules.append(self._share(rule, lambda: NearDuplicates(rule)).check)
        return rules

    def _share(self, rule: Section, make: Callable[[], Any]) -> Any:
        """What the inputs that have the same rule use together."""
        key = f"{type(rule).__name__} {rule.model_dump_json()}"
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _seen_hashes(self, cache_mb: int) -> SeenHashes:
        seen = SeenHashes(self._corpus.scratch_file(f"seen_{len(self._shared)}.sqlite"), cache_mb)
        self._stack.callback(seen.close)
        return seen

    def keep(self, records: Iterator[tuple]) -> Iterator[tuple]:
        """Of the records of `read_inputs`, those that no rule rejects."""
        for record in records:
            source, line, *texts = record
            texts = texts[: len(source.languages)]  # there may be an auxiliary sentence behind them
            if rejection := self._reject(source, line, tuple(texts)):
                self._rejected[source.name][rejection.rule] += 1
                self._write(source.name, line, rejection, texts)
            else:
                yield record

    def _reject(self, source: TextFile | PairFiles, line: int, texts: tuple[str, ...]) -> Rejection | None:
        record = Record(source.name, line, source.languages, texts)
        return next((rejection for rule in self._rules[source.name] if (rejection := rule(record))), None)

    def _write(self, name: str, line: int, rejection: Rejection, texts: list[str]) -> None:
        if self._file is None:
            file = self._stack.enter_context(open(self._corpus.rejected_file, "wb"))
            # neither name nor time: the same records are the same bytes
            self._file = self._stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0))
        content = {"file": name, "line": line, "rule": rejection.rule, "value": rejection.value, "texts": texts}
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")

    def finish(self, read: dict[str, int], written: dict[str, int]) -> dict[str, dict]:
        """Counts for the report: `kept` and, by rule, `rejected` of each input.

        Args:
            read, written: number of records of each input.
        Raises:
            DataError: of an input nothing is left, or its scores are those of another (all of these).
        """
        self._stack.close()
        problems = Problems()
        for name, quality in self._quality.items():
            problems.of(quality.finish, read[name])
        for name, counts in self._rejected.items():
            if read[name] != written.get(name, 0) + counts.total():
                raise AssertionError(f"{name}: {read[name]} records read, {written.get(name, 0)} written, {counts} rejected")
            problems.of(_check_something_left, name, read[name], counts)
        problems.raise_if_any()
        rejected = {name: dict(sorted(counts.items())) for name, counts in self._rejected.items() if counts}
        return {"kept": written, "rejected": rejected}

    def __enter__(self) -> Cleaner:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._stack.close()


def _check_something_left(name: str, read: int, rejected: Counter[str]) -> None:
    if read == rejected.total():
        rules = ", ".join(f"{rule} {count:,}" for rule, count in rejected.most_common())
        raise DataError(
            f"{name}: all {read:,} records were rejected ({rules}); change its rules in a [clean] of its own, "
            "or leave it out"
        )


def rejection_table(report: dict[str, Any]) -> list[str]:
    """Lines of a table: records read and kept of each input that lost some, and how many each rule rejected.

    Args:
        report: what is in corpus.json.
    """
    rules = sorted({rule for counts in report["rejected"].values() for rule in counts})
    rows = [
        [name, report["read"][name], report["kept"][name], *(counts.get(rule, 0) for rule in rules)]
        for name, counts in report["rejected"].items()
    ]
    rows.append(["all of these", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    table = [["input", "read", "kept", *rules], *([row[0], *(f"{number:,}" for number in row[1:])] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]
