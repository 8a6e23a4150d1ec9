"""Text of continued pre-training: monolingual documents as they are, pairs in LMT's format, a file for each source.

Each pair of sentences becomes a record of one of its two directions, by a hash of (seed, file, line): half of each,
whatever the order of work.

Next on the path: `preprocess.py` turns each file into tokens on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from megatron_lmt.data.corpus_files import (
    CorpusConfig,
    CorpusFolder,
    Monolingual,
    PairFiles,
    chance,
    check_inputs,
    pair_files,
    resolve_root,
    text_files,
    with_progress,
)
from megatron_lmt.errors import DataError
from megatron_lmt.toml_config import Section, load_toml, validate


class FormatSection(Section):
    """How a pair is written. `tags` is LMT's (arXiv 2511.07003 v2, figure 4), `plain` LLaMAX's, `newline` GemmaX's;
    `split` makes two documents of it, each side alone.
    """

    parallel: Literal["tags", "plain", "newline", "split"] = "tags"


class CptConfig(CorpusConfig):
    format: FormatSection = FormatSection()
    monolingual: list[Monolingual] = []


def format_pair(style: str, source: str, target: str, source_text: str, target_text: str) -> list[str]:
    """The documents that a pair makes in one direction: one, or two where the sides are split."""
    return {
        "tags": [f"<{source}2{target}> {source_text} <{target}> {target_text}"],
        "plain": [f"{source_text} {target_text}"],
        "newline": [f"{source_text}\n{target_text}"],
        "split": [source_text, target_text],
    }[style]


def build_cpt_corpus(config_file: Path, output: Path, root: str | None = None) -> dict[str, int]:
    """Write `mono.<language>.jsonl` and `<source>-<target>.jsonl`, each with records of `text` and `id`.

    Args:
        output: a new folder.
        root: instead of the config's own.
    Returns:
        number of records of each file.
    Raises:
        UserError: the config, missing inputs (all of them), or the first bad line.
    """
    config = validate(CptConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    texts, pairs = text_files(config.monolingual, folder), pair_files(config, folder)
    check_inputs([*texts, *pairs])
    read = {}
    with CorpusFolder(output) as corpus:
        for source in with_progress([*texts, *pairs]):
            records = _pair_records(source, config) if isinstance(source, PairFiles) else _text_records(source)
            read[source.name] = 0
            for name, documents, line in records:
                read[source.name] += 1
                for document in documents:
                    corpus.add(name, {"text": document, "id": f"{source.name}:{line}"})
            if not read[source.name]:
                raise DataError(f"{' '.join(map(str, source.paths))}: no record in it")
        corpus.finish({"config": config.model_dump(), "root": str(folder), "read": read})
        return corpus.records


def _text_records(source) -> Iterator[tuple[str, list[str], int]]:
    for line, text in source.records():
        yield f"mono.{source.language}", [text], line


def _pair_records(files: PairFiles, config: CptConfig) -> Iterator[tuple[str, list[str], int]]:
    """(output name, documents, line) for each pair, in the direction that the hash gives it."""
    for line, *texts in files.records():
        codes = [files.source, files.target]
        if chance(config.seed, files.name, line) < 0.5:
            codes.reverse()
            texts.reverse()
        yield "-".join(codes), format_pair(config.format.parallel, *codes, *texts), line
