"""Training text that contains sentences of evaluation sets."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from megatron_lmt.corpus.clean_config import EvaluationRule
from megatron_lmt.corpus.clean_rules import Record, Rejection, letters
from megatron_lmt.corpus.test_sets import known_test_sets
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.records import parse_record, read_lines


class EvaluationSentences:
    """Sentences of evaluation sets, of any language, to be found inside longer texts.

    They are compared in letters and digits. A sentence of fewer than `KEY` of them counts only where it is the whole text.

    Args:
        rule: with patterns of files, relative to `root`.
    Raises:
        DataError: a pattern without a file (all of them), or a line that cannot be read.
    """

    KEY = 16

    def __init__(self, rule: EvaluationRule, root: Path):
        files = {pattern: sorted(map(Path, glob.glob(str(root / pattern), recursive=True))) for pattern in rule.files}
        if missing := [
            f"clean.evaluation.files: {root / pattern}: no such file" for pattern, found in files.items() if not found
        ]:
            raise DataError(missing)
        self._known = known_test_sets() if rule.known_test_sets else []
        self._whole: dict[str, str] = {}
        self._by_key: dict[str, list[tuple[str, str]]] = {}
        for path in dict.fromkeys(path for found in files.values() for path in found):
            for line, sentence in _sentences(path):
                self._add(letters(sentence), f"{path}:{line}")

    def _add(self, sentence: str, where: str) -> None:
        if len(sentence) >= self.KEY:
            self._by_key.setdefault(sentence[: self.KEY], []).append((sentence, where))
        elif sentence:
            self._whole.setdefault(sentence, where)

    def find(self, language: str, text: str) -> str | None:
        """Where the first evaluation sentence of `text` is from: "file:line", or the name of a known test set."""
        for test_set in self._known:
            if any(test_set.has(language, line) for line in text.split("\n")):
                return test_set.name
        text = letters(text)
        if text in self._whole:
            return self._whole[text]
        for start in range(len(text) - self.KEY + 1):
            for sentence, where in self._by_key.get(text[start : start + self.KEY], ()):
                if text.startswith(sentence, start):
                    return where
        return None

    def check(self, record: Record) -> Rejection | None:
        """evaluation_source and evaluation_target for pairs, evaluation for documents."""
        names = ["evaluation"] if len(record.texts) == 1 else ["evaluation_source", "evaluation_target"]
        for name, code, text in zip(names, record.codes, record.texts, strict=True):
            if where := self.find(code, text):
                return Rejection(name, where)
        return None


def _sentences(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in read_lines(path):
        if ".jsonl" in path.suffixes:
            yield number, parse_record(line, ["text"], f"{path}:{number}")[0]
        else:
            for sentence in line.split("\t") if ".tsv" in path.suffixes else [line]:
                yield number, sentence
