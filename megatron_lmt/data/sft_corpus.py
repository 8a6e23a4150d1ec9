"""Text of supervised fine-tuning: a chat prompt and its target for every pair, in both directions, downsampled.

Strategic Downsampling (arXiv 2511.07003) keeps a small share of X→en and X→zh, in which one target sentence would
otherwise be repeated for every source language. What is kept is decided for each instance by a hash of (seed, file, line,
direction), so that a smaller share is a part of a larger one. en↔zh is exempt.

Next on the path: `preprocess.py`, with the target as the only text to learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from megatron_lmt.data.corpus_files import (
    CorpusConfig,
    CorpusFolder,
    chance,
    check_inputs,
    pair_files,
    read_inputs,
    resolve_root,
)
from megatron_lmt.data.prompts import CONTROL_TOKENS, END_OF_TURN, ChatTurn, render_prompt
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.languages import is_downsampled
from megatron_lmt.toml_config import Section, load_toml, validate


class DownsampleSection(Section):
    rate: float = Field(0.05, ge=0, le=1)
    """Share of the instances of X→en and X→zh that is kept."""


class SftConfig(CorpusConfig):
    template: Literal["release", "paper"] = "release"
    chat_template_from: str | None = None
    """Folder of the tokenizer whose chat template wraps the prompts, relative to `root`."""
    downsample: DownsampleSection = DownsampleSection()


def build_sft_corpus(
    config_file: Path, output: Path, tokenizer: Path | None = None, root: str | None = None
) -> dict[str, dict[str, int]]:
    """Write `<source>-<target>.jsonl` with records of `prompt` (a chat up to the answer), `target` and `id`.

    Args:
        output: a new folder.
        tokenizer: instead of the config's `chat_template_from`.
        root: instead of the config's own.
    Returns:
        for each direction the number of instances `before` downsampling and `after`; no file is written where that is 0.
    Raises:
        UserError: the config, missing inputs (all of them), or the first bad line.
    """
    config = validate(SftConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    sources = pair_files(config, folder)
    check_inputs(sources)
    turn = ChatTurn(_tokenizer_folder(config, config_file, folder, tokenizer))
    counts: dict[str, dict[str, int]] = {}
    read: dict[str, int] = {}
    with CorpusFolder(output) as corpus:
        for files, line, source_text, target_text in read_inputs(sources, read):
            _check_no_control_token(f"{files.name}:{line}", source_text, target_text)
            both = (
                (files.source, files.target, source_text, target_text),
                (files.target, files.source, target_text, source_text),
            )
            for source, target, text, translation in both:
                direction = f"{source}-{target}"
                count = counts.setdefault(direction, {"before": 0, "after": 0})
                count["before"] += 1
                draw = chance(config.seed, files.name, line, direction)
                if is_downsampled(source, target) and draw >= config.downsample.rate:
                    continue
                count["after"] += 1
                prompt = turn.render(render_prompt(config.template, source, target, text))
                record = {"prompt": prompt, "target": translation + END_OF_TURN, "id": f"{files.name}:{line}"}
                corpus.add(direction, record)
        corpus.finish({"config": config.model_dump(), "root": str(folder), "read": read, "directions": counts})
    return counts


def _check_no_control_token(where: str, *texts: str) -> None:
    found = [token for token in CONTROL_TOKENS if any(token in text for text in texts)]
    if found:
        raise DataError(f"{where}: the text contains {' and '.join(found)}, which would end a turn; remove the line")


def _tokenizer_folder(config: SftConfig, config_file: Path, root: Path, tokenizer: Path | None) -> Path:
    """
    Raises:
        ConfigError: neither the command nor the config names one.
    """
    if tokenizer is None and config.chat_template_from is None:
        raise ConfigError(
            f"{config_file}: no tokenizer whose chat template wraps prompts: set chat_template_from or --tokenizer"
        )
    return tokenizer or root / config.chat_template_from
