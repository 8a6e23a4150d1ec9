"""`[clean]` of the corpus builder's TOML: which rules there are, with LMT's values where LMT states them (arXiv 2511.07003).

Each key or table that is there turns a rule on. A source may change some of them for itself, with a table of its own
(`[monolingual.clean]`, `[pairs.clean]`, `[aligned.clean]`), and turn some off.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from megatron_lmt.languages import check_languages
from megatron_lmt.toml_config import Section, as_value_error, check_placeholders

Tier = Literal["high", "medium", "low"]


class LanguageRule(Section):
    """`[clean.language]`: each text must be identified as its own language.

    LMT asks for a confidence of 0.5 in high-resource languages, and of low-resource languages only that they are the most
    probable; it does not say what it asked of the middle.
    """

    min_confidence: float = Field(0.5, ge=0, le=1)
    top1_tiers: list[Tier] = ["low"]
    """Tiers (languages.tsv) in which any confidence will do."""
    also: dict[str, list[str]] = {}
    """What is accepted beside the language itself, such as { ms = ["id"] }."""

    @field_validator("also")
    @classmethod
    def _known(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        as_value_error(check_languages, list(value))
        return value


class EvaluationRule(Section):
    """`[clean.evaluation]`: no text may contain a sentence of an evaluation set."""

    files: list[str] = []
    """Paths or patterns, relative to `root`: a sentence a line (tsv: in each column), or jsonl with the key `text`."""
    known_test_sets: bool = True
    """Those of known_test_sets.tsv too: there are fingerprints of them, so they are found as a whole text or line only."""

    @model_validator(mode="after")
    def _anything(self):
        if not self.files and not self.known_test_sets:
            raise ValueError("names nothing to look for: set files")
        return self


class DuplicateRule(Section):
    """`[clean.duplicates]`: the first of equal records is kept, within a language or an (unordered) pair of them."""

    match: Literal["exact", "letters"] = "exact"
    """Equal to the byte, or in letters and digits, without regard to case."""
    by: Literal["both", "source", "target"] = "both"
    """The sides of a pair that are compared."""
    cache_mb: int = Field(256, ge=1)
    """Memory for the hashes; those above it are on disk, beside the output (about 40 bytes for each record)."""


class NearDuplicateRule(Section):
    """`[clean.near_duplicates]`: the first of similar records is kept; a pair must be similar on both sides."""

    threshold: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of the sets of `shingle` characters in a row, estimated by MinHash."""
    shingle: int = Field(5, ge=1)
    cache_mb: int = Field(256, ge=1)
    """Memory for what is compared; what is above it is on disk, beside the output (about 550 bytes for each record)."""


class QualityRule(Section):
    """`[clean.quality]`: pairs by a score given for each line, such as CometKiwi's (`tools/score_pairs.py`)."""

    column: int | None = Field(None, ge=3)
    """Column of the tsv file, from 1; the first two are the text."""
    scores: str | None = None
    """Or a file with a number for each line, with `{source}` and `{target}` in its path, relative to `root`."""
    threshold: float | None = None
    """Least score."""
    best_share: float | None = Field(None, gt=0, le=1)
    """Or the share of each file's pairs that is kept, the best of them."""

    @model_validator(mode="after")
    def _one_of_each(self):
        for one, other in (("column", "scores"), ("threshold", "best_share")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise ValueError(f"needs either {one} or {other}")
        if self.scores is not None:
            check_placeholders(self.scores, required={"source", "target"}, allowed={"source", "target"})
        return self


class DocumentClean(Section):
    """What applies to monolingual documents and to pairs (there to each side)."""

    min_characters: int | None = Field(None, ge=1)
    max_characters: int | None = Field(None, ge=1)
    language: LanguageRule | None = None
    evaluation: EvaluationRule | None = None
    duplicates: DuplicateRule | None = None
    near_duplicates: NearDuplicateRule | None = None


class CleanSection(DocumentClean):
    """`[clean]`: for all sources; the last four keys concern pairs alone."""

    max_length_ratio: float | None = Field(None, gt=1)
    """Longer side / shorter side. LMT: 3.0."""
    length_unit: Literal["weighted", "characters", "bytes", "words"] = "weighted"
    """Weighted: Chinese characters and kana count 3, Hangul syllables 2, because they say as much."""
    untranslated: bool = False
    """Whether pairs are rejected whose sides have the same letters and digits."""
    quality: QualityRule | None = None


class DocumentOverride(DocumentClean):
    """`[monolingual.clean]`"""

    off: list[str] = []
    """Rules of `[clean]` that this source is spared."""

    @field_validator("off")
    @classmethod
    def _rules(cls, value: list[str]) -> list[str]:
        known = [name for name in cls.model_fields if name not in ("off", "length_unit")]
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"no rules here: {', '.join(unknown)}; there are {', '.join(known)}")
        return value


class PairOverride(CleanSection, DocumentOverride):
    """`[pairs.clean]` and `[aligned.clean]`"""


def for_source(everywhere: CleanSection, here: DocumentOverride) -> CleanSection:
    """The rules of one source: those of `[clean]`, but for what its own table says."""
    changes = {name: getattr(here, name) for name in here.model_fields_set if name != "off"}
    return everywhere.model_copy(update={name: False if name == "untranslated" else None for name in here.off} | changes)
