"""Cleaning in the corpus builders: what a rule of `[clean]` rejects is counted, and kept beside the output.

The first rule that rejects a record is the one that is counted. Rules that look at one record come first, in any number of
processes; what they reject must not make a later copy of it a duplicate. Texts are never changed.

Cost: identifying languages, 3 thousand pairs a second and worker; without that rule 15 thousand or more.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby, islice, tee
from operator import itemgetter
from pathlib import Path
from typing import Any

from megatron_lmt.corpus.clean_records import Batch, examine, first_rejection, rules_once
from megatron_lmt.corpus.clean_rules import Record, Rejection, Rule
from megatron_lmt.corpus.duplicates import SeenHashes, duplicate
from megatron_lmt.corpus.files import CorpusFolder, PairFiles, TextFile
from megatron_lmt.corpus.near_duplicates import NearDuplicates
from megatron_lmt.corpus.quality import Quality
from megatron_lmt.errors import DataError, Problems
from megatron_lmt.pool import process_pool
from megatron_lmt.toml_config import Section

BATCH = 200


class Cleaner:
    """Asks the rules of each input, and counts what they reject.

    Args:
        inputs: each with its rules (`clean`).
        root: of the paths in the rules.
        corpus: the folder that is written; hashes are on disk beside it meanwhile.
        workers: processes for the rules that look at one record alone; 1 is this process. More are spawned, so a script
            needs its `if __name__ == "__main__"`. The outcome is the same for any number.
    Raises:
        UserError: a file that a rule needs is not there, or a library is not (all of them).
    """

    def __init__(self, inputs: list[TextFile | PairFiles], root: Path, corpus: CorpusFolder, workers: int = 1):
        self._root = root
        self._corpus = corpus
        self._workers = workers
        self._stack = ExitStack()
        self._file: gzip.GzipFile | None = None
        self._shared: dict[str, Any] = {}
        self._quality: dict[str, Quality] = {}
        self._rejected: dict[str, Counter[str]] = {source.name: Counter() for source in inputs}
        self._clean = {source.name: source.clean.model_dump_json() for source in inputs}
        problems = Problems()
        if workers < 1:
            problems.found.append(f"--workers {workers}: at least 1")
        alone = [problems.of(rules_once, self._clean[source.name], root, isinstance(source, PairFiles)) for source in inputs]
        self._rules = {source.name: problems.of(self._rules_in_order, source) for source in inputs}
        self._is_idle = not any(alone) and not any(self._rules.values())
        problems.found = list(dict.fromkeys(problems.found))
        problems.raise_if_any()

    def _rules_in_order(self, source: TextFile | PairFiles) -> list[Rule]:
        """The rules that depend on what came before, or on the place of a record."""
        clean, rules = source.clean, []
        if clean.quality and isinstance(source, PairFiles):
            quality = Quality(clean.quality, source.paths, self._root, source.source, source.target)
            self._quality[source.name] = quality
            rules.append(quality.check)
        if rule := clean.duplicates:
            rules.append(duplicate(rule, self._share(rule, lambda path: SeenHashes(path, rule.cache_mb))))
        if rule := clean.near_duplicates:
            rules.append(self._share(rule, lambda path: NearDuplicates(rule, path)).check)
        return rules

    def _share(self, rule: Section, make: Callable[[Path], Any]) -> Any:
        """What the inputs that have the same rule use together; made with a file of its own."""
        key = f"{type(rule).__name__} {rule.model_dump_json()}"
        if key not in self._shared:
            made = make(self._corpus.scratch_file(f"seen_{len(self._shared)}.sqlite"))
            self._stack.callback(made.close)
            self._shared[key] = made
        return self._shared[key]

    def keep(self, records: Iterator[tuple]) -> Iterator[tuple]:
        """Of the records of `read_inputs`, those that no rule rejects, in their order.

        Raises:
            DataError: a worker died, a score is missing, or of an input that is read nothing is left.
        """
        if self._is_idle:
            yield from records
            return
        batches, same = tee(_batches(records))
        read: Counter[str] = Counter()
        last = None
        for batch, rejections in zip(batches, self._examine(same), strict=True):
            name = batch[0][0].name
            if last not in (None, name):  # now, not hours later
                _check_something_left(last, read[last], self._rejected[last])
            last = name
            read[name] += len(batch)
            for original, record, rejection in zip(batch, map(_record, batch), rejections, strict=True):
                if rejection := rejection or first_rejection(self._rules[record.name], record):
                    self.reject(original, rejection)
                else:
                    yield original

    def reject(self, original: tuple, rejection: Rejection) -> None:
        """Count a record of `read_inputs` and keep it beside the output; for what a builder itself cannot use, too."""
        record = _record(original)
        self._rejected[record.name][rejection.rule] += 1
        self._write(record, rejection)

    def _examine(self, batches: Iterator[list[tuple]]) -> Iterator[list[Rejection | None]]:
        prepared = (Batch(self._clean[batch[0][0].name], self._root, list(map(_record, batch))) for batch in batches)
        if self._workers == 1:
            yield from map(examine, prepared)
            return
        died = f"a cleaning process died (out of memory?): start again, with fewer --workers than {self._workers}"
        with process_pool(self._workers, died) as pool:
            yield from pool.in_order(examine, prepared)

    def _write(self, record: Record, rejection: Rejection) -> None:
        if self._file is None:
            file = self._stack.enter_context(open(self._corpus.rejected_file, "wb"))
            # neither name nor time: the same records are the same bytes
            self._file = self._stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0))
        content = {"file": record.name, "line": record.line, **asdict(rejection), "texts": record.texts}
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


def _batches(records: Iterator[tuple]) -> Iterator[list[tuple]]:
    """Records of one input, up to BATCH of them."""
    for _, of_one in groupby(records, key=itemgetter(0)):
        while batch := list(islice(of_one, BATCH)):
            yield batch


def _record(record: tuple) -> Record:
    source, line, *texts = record
    codes = source.languages
    return Record(source.name, line, codes, tuple(texts[: len(codes)]))  # an auxiliary sentence may follow them


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
