"""Keeps test sets out of training text, and counts what it shares with the test sets of a user."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from megatron_lmt.corpus.clean_rules import Rejection
from megatron_lmt.corpus.test_sets import NAMES, REFUSED_SHARE, fingerprint, known_test_sets, read_test_set
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.files import no_file
from megatron_lmt.sft.config import Evaluation, SftInput


class Contamination:
    """Checks pair after pair.

    A pair with a sentence of a known test set is always dropped; an input with many of them is refused at the end.

    Args:
        evaluation: test sets of the user.
        root: of their paths.
        inputs: of the corpus.
    Raises:
        ConfigError: missing files, or inputs named like a known test set; all of them.
    """

    def __init__(self, evaluation: list[Evaluation], root: Path, inputs: list[SftInput]):
        files = [{code: root / section.path.format(language=code) for code in section.languages} for section in evaluation]
        problems = [no_file(path) for paths in files for path in paths.values() if not path.is_file()]
        problems += [
            f"{found.name}: {match[0]!r} is the name of a test set, which is never trained on; take it out, or rename the "
            "file if it is something else"
            for found in {source.name: source for source in inputs}.values()
            if (match := NAMES.search(found.name))
        ]
        if problems:
            raise ConfigError(problems)
        self._known = known_test_sets()
        self._of_user = [read_test_set(section.name, paths) for section, paths in zip(evaluation, files, strict=True)]
        self._found: dict[tuple[str, str, str], set[str]] = {}  # (input, test set, language) → fingerprints
        self._overlap: dict[str, dict[str, Counter]] = {test_set.name: {} for test_set in self._of_user}

    def check(self, files: SftInput, source_text: str, target_text: str) -> Rejection | None:
        """Count a pair; returns why it must not be used, or None."""
        rejection = None
        sides = ((files.source, source_text), (files.target, target_text))
        for test_set in self._known:
            for language, text in sides:
                if test_set.has(language, text):
                    self._found.setdefault((files.name, test_set.name, language), set()).add(fingerprint(text))
                    rejection = Rejection("test_set", test_set.name)
        for test_set in self._of_user:
            source, target = (test_set.has(language, text) for language, text in sides)
            if source or target:
                counts = self._overlap[test_set.name].setdefault(files.direction, Counter())
                counts.update({files.source: source, files.target: target, "both": source and target})
        return rejection

    def overlap(self) -> dict[str, dict[str, dict[str, int]]]:
        """Test set → pair → pairs of sentences of which this side, by its language, or both sides are in the test set."""
        return {name: {pair: dict(counts) for pair, counts in pairs.items()} for name, pairs in self._overlap.items()}

    def refuse_test_sets(self) -> None:
        """
        Raises:
            DataError: inputs that hold a known test set, or a large part of one; all of them.
        """
        sizes = {(known.name, code): len(found) for known in self._known for code, found in known.fingerprints.items()}
        problems = [
            f"{name}: has {len(found)} of the {sizes[test_set, language]} {language} sentences of the test set {test_set}, "
            "which is never trained on; take it out"
            for (name, test_set, language), found in self._found.items()
            if len(found) >= REFUSED_SHARE * sizes[test_set, language]
        ]
        if problems:
            raise DataError(problems)
