"""The TOML file of `tools/build_corpus.py sft`, and the inputs that it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from megatron_lmt.corpus.files import Aligned, CorpusConfig, Monolingual, PairFiles, Pairs, pair_files
from megatron_lmt.errors import DataError
from megatron_lmt.languages import auxiliary_language, check_languages
from megatron_lmt.preprocessing.records import read_lines
from megatron_lmt.sft.prompts import TEMPLATES
from megatron_lmt.toml_config import Section, as_value_error


class SftPairs(Pairs):
    multi_way: bool = False
    """Whether the same sentences are there in many languages, so that one target answers many sources."""


class SftAligned(Aligned):
    multi_way: bool = True


class DownsampleSection(Section):
    """Strategic Downsampling (arXiv 2511.07003 v2, section 2.1)."""

    rate: float = Field(0.05, ge=0, le=1)
    """Probability with which an instance of X→en and X→zh is kept."""
    scope: Literal["multi_way", "all"] = "multi_way"
    """Which corpora: the multi-way ones, as the paper defines it, or bilingual ones too."""
    exempt_en_zh: bool = True
    """Keep en→zh and zh→en in full: they are one pair, not repeated for 59 languages."""


class PmpSection(Section):
    """Parallel Multilingual Prompting (arXiv 2511.07003 v2, section 3): a third sentence in the prompt."""

    share: float = Field(0.5, ge=0, le=1)
    """Of the instances in each direction; those without a third aligned sentence get the plain prompt."""
    proposals: bool = False
    """Also auxiliaries that this project proposes, for the 22 languages that have none with English in the paper."""


class Dictionary(Pairs):
    """`[[augment.dictionary]]`: a tsv file for each pair, a term and its translation in a line; read in both directions."""


class AugmentSection(Section):
    """LLaMAX's data augmentation (arXiv 2407.05975): words of the source are replaced by their translation in some
    language, from a dictionary that has the word itself (1-hop); only the target is learned.
    """

    dictionary: list[Dictionary] = []
    """Without one, originals are repeated only."""
    languages: list[str] = []
    """The replacements are in these languages. Empty: in all that the dictionaries have."""
    rate: float = Field(0.3, gt=0, le=1)
    """Probability with which a word that is in a dictionary is replaced."""
    below_pairs: int = Field(25_000, gt=0)
    """Pairs of languages with fewer pairs of sentences are augmented, up to about this number; others are left alone."""
    repeat: int = Field(3, gt=0)
    """How often the original of such a pair is there."""
    max_copies: int = Field(5, ge=0)
    """At most this many code-switched copies of one original."""

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: list[str]) -> list[str]:
        as_value_error(check_languages, value)
        return value


class Evaluation(Monolingual):
    """`[[evaluation]]`: a test set, one file of sentences for each language; what training has of it is reported.

    To take it out as well, name the files in `[clean.evaluation]`; what is reported is what is left.
    """

    name: str


class SftConfig(CorpusConfig):
    template: str = "release"
    """Wording of the prompts: release, paper, first_release or alpaca."""
    chat_template_from: str | None = None
    """Folder of the tokenizer whose chat template wraps the prompts, relative to `root`."""
    pairs: list[SftPairs] = []
    aligned: list[SftAligned] = []
    downsample: DownsampleSection = DownsampleSection()
    pmp: PmpSection = PmpSection()
    augment: AugmentSection | None = None
    evaluation: list[Evaluation] = []

    @field_validator("template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if value not in TEMPLATES:
            raise ValueError(f"unknown template {value!r}: one of {', '.join(TEMPLATES)}")
        return value

    @model_validator(mode="after")
    def _template_fits_pmp(self):
        if self.pmp.share and TEMPLATES[self.template].pmp is None:
            raise ValueError(f"template {self.template!r} has no wording with an auxiliary sentence: set pmp.share = 0")
        return self


@dataclass(frozen=True)
class SftInput(PairFiles):
    """A pair of one corpus, and the file of its auxiliary language where there is one.

    `auxiliary` is None for languages without one; `auxiliary_path` is None where this corpus lacks it.
    """

    multi_way: bool
    auxiliary: str | None
    auxiliary_path: Path | None

    def records(self) -> Iterator[tuple[int, str, str, str | None]]:
        """(line number, source sentence, target sentence, auxiliary sentence or None)

        Raises:
            DataError: a bad line, or an auxiliary file of another length.
        """
        if self.auxiliary_path is None:
            for record in super().records():
                yield *record, None
            return
        both = zip_longest(super().records(), read_lines(self.auxiliary_path))
        for number, (record, auxiliary) in enumerate(both, 1):
            if record is None or auxiliary is None:
                short = self.auxiliary_path if auxiliary is None else " and ".join(map(str, self.paths))
                raise DataError(f"{short}: ends before line {number}, which files aligned with it have")
            yield *record, auxiliary[1] if auxiliary[1].strip() else None


def sft_inputs(config: SftConfig, root: Path) -> list[SftInput]:
    """One for each pair of each section, in the order of the file."""
    return [
        _with_auxiliary(files, section, config, root)
        for kind, sections in (("pairs", config.pairs), ("aligned", config.aligned))
        for section in sections
        for files in pair_files(CorpusConfig(**{kind: [section]}, clean=config.clean), root)
    ]


def _with_auxiliary(files: PairFiles, section: SftPairs | SftAligned, config: SftConfig, root: Path) -> SftInput:
    auxiliary = auxiliary_language(files.source, files.target, config.pmp.proposals)
    path = None
    if auxiliary and isinstance(section, SftAligned):
        candidate = root / section.path.format(language=auxiliary)
        path = candidate if candidate.is_file() else None
    return SftInput(
        files.name, files.paths, files.source, files.target, section.multi_way, auxiliary, path, clean=files.clean
    )
