"""How many tokens a tokenizer needs for each language: a high number is long sequences and weak representation.

Fertility is tokens per word, and tokens per character in scripts without spaces (LLaMAX, arXiv 2407.05975, section 3.1).
Text that says the same in all languages can be compared by tokens against English.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.errors import DataError
from megatron_lmt.files import no_file
from megatron_lmt.languages import languages
from megatron_lmt.preprocessing.records import read_documents
from megatron_lmt.preprocessing.tokenising import WORD
from megatron_lmt.text_table import text_table


@dataclass(frozen=True)
class Fertility:
    """Of one language: documents, tokens, words (characters where `unit` is "character"), characters and UTF-8 bytes."""

    language: str
    documents: int
    tokens: int
    units: int
    unit: str
    characters: int
    utf8_bytes: int

    @property
    def tokens_per_unit(self) -> float:
        return self.tokens / self.units


def measure(language: str, path: Path, tokenizer: Tokenizer, documents: int | None) -> Fertility:
    """Count the tokens of a file of documents or sentences.

    Args:
        documents: the first ones only; None for all.
    Raises:
        DataError: no such file, a bad line, or no document.
    """
    if not path.is_file():
        raise DataError(no_file(path))
    texts = [text for _, text in islice(read_documents(path), documents)]
    if not texts:
        raise DataError(f"{path}: no document in it")
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    characters = sum(sum(not character.isspace() for character in text) for text in texts)
    has_spaces = languages()[language].has_spaces
    units = sum(len(WORD.findall(text)) for text in texts) if has_spaces else characters
    utf8_bytes = sum(len(text.encode()) for text in texts)
    return Fertility(language, len(texts), tokens, units, "word" if has_spaces else "character", characters, utf8_bytes)


def fertility_table(measured: list[Fertility]) -> list[str]:
    """Lines of text, the highest fertility first, words before characters."""
    english = next((found for found in measured if found.language == "en"), None)
    header = (
        "language",
        "name",
        "documents",
        "tokens",
        "tokens/unit",
        "unit",
        "tokens/character",
        "bytes/token",
        "tokens/en",
    )
    rows = [
        (
            found.language,
            languages()[found.language].name,
            f"{found.documents:,}",
            f"{found.tokens:,}",
            f"{found.tokens_per_unit:.2f}",
            found.unit,
            f"{found.tokens / found.characters:.2f}",
            f"{found.utf8_bytes / found.tokens:.2f}",
            # only of the same text
            f"{found.tokens / english.tokens:.2f}" if english and english.documents == found.documents else "-",
        )
        for found in sorted(measured, key=lambda found: (found.unit != "word", -found.tokens_per_unit))
    ]
    return text_table(header, rows)
