"""The 60 languages of LMT and its 234 directions.

English and Chinese are the pivots: each other language is paired with both of them, and they with each other. That makes
117 pairs. Codes are LMT's own (`nb`, `yue`, `mvf` …); `languages.tsv` has one line for each.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megatron_lmt.errors import ConfigError

PIVOTS = ("en", "zh")
SCRIPTS_WITHOUT_SPACES = ("Han", "Japanese", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
GROUPS = ("en-x", "x-en", "zh-x", "x-zh", "en-centric", "zh-centric", "all")


@dataclass(frozen=True)
class Language:
    """`name` is what prompts call it; `tier` is LMT's class of resources: high, medium or low.

    `auxiliary` is the language that Parallel Multilingual Prompting puts beside it in pairs with English, None for the
    pivots; `auxiliary_is_proposed` where it is this project's proposal and not in the paper's table 12.
    """

    code: str
    name: str
    script: str
    tier: str
    auxiliary: str | None
    auxiliary_is_proposed: bool

    @property
    def has_spaces(self) -> bool:
        """Whether spaces part the words of this script."""
        return self.script not in SCRIPTS_WITHOUT_SPACES


@cache
def languages() -> dict[str, Language]:
    """Code → language, in the order of the table."""
    with open(Path(__file__).with_name("languages.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row["code"]: _language(row) for row in rows}


def _language(row: dict[str, str]) -> Language:
    auxiliary = row["pmp_aux_en"] if row["pmp_aux_en"] != "-" else None
    is_proposed = row["pmp_aux_en_source"] == "proposal"
    return Language(row["code"], row["prompt_name"], row["script"], row["tier"], auxiliary, is_proposed)


def pairs(group: str) -> list[str]:
    """Unordered pairs, pivot first: "en-centric" (59, en-zh among them), "zh-centric" (58 without it), "all" (117)."""
    others = [code for code in languages() if code not in PIVOTS]
    by_group = {
        "en-centric": [f"en-{code}" for code in ["zh", *others]],
        "zh-centric": [f"zh-{code}" for code in others],
    }
    by_group["all"] = by_group["en-centric"] + by_group["zh-centric"]
    if group not in by_group:
        raise ConfigError(f"unknown group of pairs {group!r}: one of {', '.join(by_group)}")
    return by_group[group]


def directions(group: str) -> list[str]:
    """Directions of a group, as source-target.

    "en-x" and "x-en" have 59 each, en-zh and zh-en among them; "zh-x" and "x-zh" have 58 each without these two;
    "en-centric", "zh-centric" and "all" join them to 118, 116 and 234.

    Raises:
        ConfigError: no such group.
    """
    if group not in GROUPS:
        raise ConfigError(f"unknown group of directions {group!r}: one of {', '.join(GROUPS)}")
    if group == "all":
        return directions("en-centric") + directions("zh-centric")
    if group in ("en-centric", "zh-centric"):
        pivot = group[:2]
        return directions(f"{pivot}-x") + directions(f"x-{pivot}")
    if group in ("en-x", "zh-x"):
        return pairs(f"{group[:2]}-centric")
    return [reverse(pair) for pair in pairs(f"{group[2:]}-centric")]


def split_direction(direction: str) -> tuple[str, str]:
    """ "en-ky" → ("en", "ky").

    Raises:
        ConfigError: not two different known codes.
    """
    source, dash, target = direction.partition("-")
    if not dash:
        raise ConfigError(f"direction {direction!r}: write source-target, such as en-de")
    problems = [f"direction {direction!r}: {_unknown(code)}" for code in (source, target) if code not in languages()]
    if source == target:
        problems.append(f"direction {direction!r}: source and target are the same")
    if problems:
        raise ConfigError(problems)
    return source, target


def among(names: list[str], codes: list[str]) -> list[str]:
    """Those of these directions or pairs that are between two of these languages.

    Raises:
        ConfigError: a language is unknown, or none is left.
    """
    check_languages(codes)
    left = [name for name in names if set(split_direction(name)) <= set(codes)]
    if not left:
        raise ConfigError(f"languages = {codes}: none of {names[0]}, {names[-1]} … is between two of these")
    return left


def reverse(direction: str) -> str:
    source, target = split_direction(direction)
    return f"{target}-{source}"


def is_downsampled(source: str, target: str) -> bool:
    """Whether Strategic Downsampling applies to this direction: into a pivot, but not from the other pivot."""
    return target in PIVOTS and source not in PIVOTS


def auxiliary_language(source: str, target: str, proposals: bool = False) -> str | None:
    """The language of the third sentence in Parallel Multilingual Prompting; the same for both directions of a pair.

    Between Chinese and any other language it is English. Between English and 36 languages it is the fixed one of
    arXiv 2511.07003 v2, table 12; the other 22 have none there, and en-zh has none at all.

    Args:
        proposals: take this project's proposals for those 22.
    """
    pair = {source, target}
    if pair == set(PIVOTS) or not pair & set(PIVOTS):
        return None
    if "zh" in pair:
        return "en"
    (code,) = pair - {"en"}
    language = languages()[code]
    return language.auxiliary if proposals or not language.auxiliary_is_proposed else None


def check_languages(codes: list[str]) -> None:
    """Raise a ConfigError that names every code that is not one of the 60."""
    problems = [_unknown(code) for code in codes if code not in languages()]
    if problems:
        raise ConfigError(problems)


def _unknown(code: str) -> str:
    close = difflib.get_close_matches(code, languages(), n=3, cutoff=0.4)
    by_name = [entry.code for entry in languages().values() if code.lower() == entry.name.lower()]
    hint = by_name or close
    return f"unknown language code {code!r}" + (f"; did you mean {' or '.join(hint)}?" if hint else " (see languages.tsv)")
