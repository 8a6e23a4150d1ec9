"""What preprocessing made of each source, and how many tokens a word and a character take in each language.

In scripts without spaces between words, look at characters.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from megatron_lmt.languages import languages
from megatron_lmt.preprocessing.inputs import Input
from megatron_lmt.text_table import text_table

UNITS = ("documents", "documents_rejected", "tokens", "words", "characters")


def report(jobs: dict[Path, list[Input | Path]], manifests: list[dict]) -> list[str]:
    """A line for each source, and where languages are known, one for each."""
    names = [prefix.name for prefix in jobs]
    lines = _table("source", dict(zip(names, manifests, strict=True)))
    by_language: dict[str, Counter] = {}
    for (prefix, inputs), manifest in zip(jobs.items(), manifests, strict=True):
        if language := _language(prefix.name, inputs):
            counts = {unit: manifest[unit] for unit in UNITS}
            by_language.setdefault(language, Counter()).update(counts)
    return [*lines, "", *_table("language", by_language)] if by_language else lines


def _language(name: str, inputs: list[Input | Path]) -> str | None:
    """What the inputs are said to be; otherwise the last part of the name, as in mono.de."""
    said = {given.language for given in inputs if isinstance(given, Input)}
    if len(said) == 1 and None not in said:
        return said.pop()
    code = name.rpartition(".")[2]
    return code if code in languages() else None


def _table(first: str, rows: dict[str, dict]) -> list[str]:
    header = (first, "documents", "rejected", "tokens", "tokens/word", "tokens/character")
    return text_table(header, [(name, *_cells(counts)) for name, counts in rows.items()])


def _cells(counts: dict) -> tuple[str, ...]:
    whole = (f"{counts[unit]:,}" for unit in ("documents", "documents_rejected", "tokens"))
    return *whole, *(f"{counts['tokens'] / counts[unit]:.2f}" for unit in ("words", "characters"))
