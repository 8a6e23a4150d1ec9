"""All rules that look at one record alone, for batches of records: the part of cleaning that any process can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megatron_lmt.corpus.clean_config import CleanSection, EvaluationRule
from megatron_lmt.corpus.clean_rules import (
    Record,
    Rejection,
    Rule,
    language,
    length_bounds,
    length_ratio,
    untranslated,
)
from megatron_lmt.corpus.evaluation_overlap import EvaluationSentences
from megatron_lmt.language_id import identify


@dataclass(frozen=True)
class Batch:
    """Records of one input. `clean` is its CleanSection as JSON; `root` that of the rules' paths."""

    clean: str
    root: Path
    records: list[Record]


def examine(batch: Batch) -> list[Rejection | None]:
    """What is wrong with each record, if anything: the first rule's answer."""
    rules = rules_once(batch.clean, batch.root, is_pair=len(batch.records[0].texts) == 2)
    return [first_rejection(rules, record) for record in batch.records]


def first_rejection(rules: list[Rule], record: Record) -> Rejection | None:
    return next((rejection for rule in rules if (rejection := rule(record))), None)


@cache
def rules_once(clean: str, root: Path, is_pair: bool) -> list[Rule]:
    """Cheap ones first. Made once in the life of a process.

    Raises:
        UserError: a file that a rule needs is not there, or a library is not.
    """
    section = CleanSection.model_validate_json(clean)
    rules: list[Rule] = []
    if section.min_characters or section.max_characters:
        rules.append(length_bounds(section.min_characters, section.max_characters))
    if is_pair and section.max_length_ratio:
        rules.append(length_ratio(section.max_length_ratio, section.length_unit))
    if is_pair and section.untranslated:
        rules.append(untranslated)
    if section.evaluation:
        rules.append(_overlap_once(section.evaluation.model_dump_json(), root))
    if section.language:
        identify([])  # a missing library is an error before work starts
        rules.append(language(section.language))
    return rules


@cache
def _overlap_once(rule: str, root: Path) -> Callable[[Record], Rejection | None]:
    return EvaluationSentences(EvaluationRule.model_validate_json(rule), root).check
