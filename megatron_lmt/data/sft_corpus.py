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
    resolve_root,
    with_progress,
)
from megatron_lmt.data.prompts import END_OF_TURN, ChatTurn, render_prompt
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import PIVOTS
from megatron_lmt.toml_config import Section, load_toml, validate


class DownsampleSection(Section):
    rate: float = Field(0.05, ge=0, le=1)
    """Share of the instances of X→en and X→zh that is kept."""


class SftConfig(CorpusConfig):
    template: Literal["release", "paper"] = "release"
    downsample: DownsampleSection = DownsampleSection()


def is_downsampled(source: str, target: str) -> bool:
    """Whether Strategic Downsampling applies to this direction: into a pivot, but not from the other pivot."""
    return target in PIVOTS and source not in PIVOTS


def build_sft_corpus(config_file: Path, output: Path, tokenizer: Path, root: str | None = None) -> dict[str, dict[str, int]]:
    """Write `<source>-<target>.jsonl` with records of `prompt` (a chat up to the answer), `target` and `id`.

    Args:
        output: a new folder.
        tokenizer: folder of the tokenizer whose chat template wraps the prompts.
        root: instead of the config's own.
    Returns:
        for each direction the number of instances `before` downsampling and `after`.
    Raises:
        UserError: the config, missing inputs (all of them), or the first bad line.
    """
    config = validate(SftConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    sources = pair_files(config, folder)
    check_inputs(sources)
    if not tokenizer.is_dir():
        raise ConfigError(f"--tokenizer {tokenizer}: no such folder")
    turn = ChatTurn(tokenizer)
    counts: dict[str, dict[str, int]] = {}
    with CorpusFolder(output) as corpus:
        for files in with_progress(sources):
            for line, source_text, target_text in files.records():
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
        corpus.finish({"config": config.model_dump(), "root": str(folder), "directions": counts})
    return counts
