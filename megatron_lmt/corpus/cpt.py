"""Text of continued pre-training: monolingual documents as they are, pairs in LMT's format, a file for each source.

Each pair of sentences becomes a record of one of its two directions, by a hash of (seed, file, line): half of each,
whatever the order of work.

Next on the path: `preprocessing/preprocess.py` turns each file into tokens on disk.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from megatron_lmt.corpus.cleaning import Cleaner
from megatron_lmt.corpus.files import (
    CorpusConfig,
    CorpusFolder,
    Monolingual,
    PairFiles,
    check_inputs,
    pair_files,
    read_inputs,
    resolve_root,
    text_files,
)
from megatron_lmt.errors import DataError
from megatron_lmt.languages import reverse
from megatron_lmt.preprocessing.pairs import format_pair, is_reversed
from megatron_lmt.toml_config import Section, load_toml, validate


class FormatSection(Section):
    """How a pair is written; see `format_pair`."""

    parallel: Literal["tags", "plain", "newline", "split"] = "tags"


class CptConfig(CorpusConfig):
    format: FormatSection = FormatSection()
    monolingual: list[Monolingual] = []


def build_cpt_corpus(config_file: Path, output: Path, root: str | None = None, workers: int = 1) -> dict[str, int]:
    """Write `mono.<language>.jsonl` and `<source>-<target>.jsonl`, each with records of `text` and `id`.

    Args:
        output: a new folder.
        root: instead of the config's own.
        workers: processes for `[clean]`, see `Cleaner`.
    Returns:
        number of records of each file.
    Raises:
        UserError: the config, missing inputs (all of them), the first bad line, or inputs or directions left without a
            record (all of them).
    """
    config = validate(CptConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    texts, pairs = text_files(config.monolingual, config.clean, folder), pair_files(config, folder)
    check_inputs([*texts, *pairs])
    read: dict[str, int] = {}
    written: Counter[str] = Counter()
    with CorpusFolder(output) as corpus, Cleaner([*texts, *pairs], folder, corpus, workers) as cleaner:
        for source, line, *record in cleaner.keep(read_inputs([*texts, *pairs], read)):
            if isinstance(source, PairFiles):
                name, documents = _in_one_direction(source, line, record, config)
            else:
                name, documents = f"mono.{source.language}", record
            for document in documents:
                corpus.add(name, {"text": document, "id": f"{source.name}:{line}"})
            written[source.name] += 1
        cleaned = cleaner.finish(read, written)
        _check_both_directions(pairs, corpus.records)
        corpus.finish({"config": config.model_dump(), "root": str(folder), "read": read, **cleaned})
        return corpus.records


def _in_one_direction(files: PairFiles, line: int, sentences: list[str], config: CptConfig) -> tuple[str, list[str]]:
    """(output name, documents) of a pair, in the direction that the hash gives it."""
    codes = [files.source, files.target]
    if is_reversed(config.seed, files.name, line):
        codes, sentences = codes[::-1], sentences[::-1]
    return "-".join(codes), format_pair(config.format.parallel, *codes, *sentences)


def _check_both_directions(pairs: list[PairFiles], records: dict[str, int]) -> None:
    """
    Raises:
        DataError: directions that got none of the few records of their pair, all of them.
    """
    named = dict.fromkeys(name for files in pairs for name in (files.direction, reverse(files.direction)))
    empty = [
        f"{name}: no record, because all of this pair went the other way; add some or exclude the pair"
        for name in named
        if name not in records
    ]
    if empty:
        raise DataError(empty)
