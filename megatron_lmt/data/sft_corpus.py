"""Text of supervised fine-tuning: a chat prompt and its target for every pair, in both directions, downsampled.

Strategic Downsampling (arXiv 2511.07003) keeps a small share of X→en and X→zh, in which one target sentence would
otherwise be repeated for every source language. What is kept, and what gets a prompt with an auxiliary sentence, is
decided for each instance by a hash of (seed, corpus, line, direction): a smaller share is a part of a larger one.

Cost: about 30,000 instances a second; memory holds 8 bytes and a set's entry for each distinct target.

Next on the path: `preprocess.py`, with the target as the only text to learn.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from megatron_lmt.data.cleaning import Cleaner
from megatron_lmt.data.contamination import Contamination
from megatron_lmt.data.corpus_files import CorpusFolder, chance, check_inputs, read_inputs, resolve_root
from megatron_lmt.data.prompts import CONTROL_TOKENS, END_OF_TURN, ChatTurn, render_prompt
from megatron_lmt.data.sft_config import SftConfig, SftInput, sft_inputs
from megatron_lmt.data.sft_report import SftReport
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import is_downsampled
from megatron_lmt.toml_config import load_toml, validate


def build_sft_corpus(
    config_file: Path, output: Path, tokenizer: Path | None = None, root: str | None = None, workers: int = 1
) -> SftReport:
    """Write `<source>-<target>.jsonl` with records of `prompt` (a chat up to the answer), `target` and `id`.

    Args:
        output: a new folder; pairs that were not used are in its `dropped.tsv`, all counts in its corpus.json. A
            direction of which downsampling leaves nothing has no file.
        tokenizer: instead of the config's `chat_template_from`.
        root: instead of the config's own.
        workers: processes for `[clean]`, see `Cleaner`.
    Raises:
        UserError: the config, missing inputs (all of them), the first bad line, or a known test set among the inputs.
    """
    config = validate(SftConfig, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    sources = sft_inputs(config, folder)
    contamination = Contamination(config.evaluation, folder, sources)
    check_inputs(sources)
    turn = ChatTurn(_tokenizer_folder(config, config_file, folder, tokenizer))
    report, read, kept = SftReport(), {}, Counter()
    with CorpusFolder(output) as corpus, Cleaner(sources, folder, corpus, workers) as cleaner:
        for files, line, source_text, target_text, auxiliary_text in cleaner.keep(read_inputs(sources, read)):
            kept[files.name] += 1
            reason = _control_token(source_text, target_text, auxiliary_text) or contamination.check(
                files, source_text, target_text
            )
            if reason:
                report.drop(files, line, reason, source_text, target_text)
                continue
            auxiliary = (files.auxiliary, auxiliary_text) if auxiliary_text is not None else None
            both = (
                (files.source, files.target, source_text, target_text),
                (files.target, files.source, target_text, source_text),
            )
            for source, target, text, translation in both:
                direction = f"{source}-{target}"
                is_kept = _is_kept(config, files, line, source, target)
                wants_pmp = chance(config.seed, "pmp", files.name, line, direction) < config.pmp.share
                report.count(direction, translation, is_kept, wants_pmp, auxiliary is not None)
                if is_kept:
                    prompt = render_prompt(config.template, source, target, text, auxiliary if wants_pmp else None)
                    target_and_end = translation + END_OF_TURN
                    record = {"prompt": turn.render(prompt), "target": target_and_end, "id": f"{files.name}:{line}"}
                    corpus.add(direction, record)
        contamination.refuse_test_sets()
        report.write_dropped(corpus)
        corpus.finish(
            {
                "config": config.model_dump(),
                "root": str(folder),
                "read": read,
                **cleaner.finish(read, kept),
                **report.as_dict(),
                "overlap": contamination.overlap(),
            }
        )
    return report


def _is_kept(config: SftConfig, files: SftInput, line: int, source: str, target: str) -> bool:
    """Whether Strategic Downsampling keeps this instance."""
    downsample = config.downsample
    is_in_scope = files.multi_way or downsample.scope == "all"
    applies = is_downsampled(source, target) or (not downsample.exempt_en_zh and {source, target} == {"en", "zh"})
    if not (is_in_scope and applies):
        return True
    return chance(config.seed, files.name, line, f"{source}-{target}") < downsample.rate


def _control_token(*texts: str | None) -> str | None:
    """Why these texts cannot be put into a chat: they would end a turn."""
    found = [token for token in CONTROL_TOKENS if any(text and token in text for text in texts)]
    return f"control token {' and '.join(found)}" if found else None


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
