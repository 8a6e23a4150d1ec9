"""Text of supervised fine-tuning: a chat prompt and its target for every pair, in both directions, downsampled.

Strategic Downsampling (arXiv 2511.07003) keeps a small share of X→en and X→zh, in which one target sentence would
otherwise be repeated for every source language. What is kept, and what gets a prompt with an auxiliary sentence, is
decided for each instance by a hash of (seed, corpus, line, direction): a smaller share is a part of a larger one.

Cost: about 30,000 instances a second; memory holds 8 bytes and a set's entry for each distinct target.

Next on the path: `preprocessing/preprocess.py`, with the target as the only text to learn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from megatron_lmt.corpus.clean_rules import Rejection
from megatron_lmt.corpus.cleaning import Cleaner
from megatron_lmt.corpus.files import CorpusFolder, check_inputs, read_inputs, resolve_root
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import is_downsampled
from megatron_lmt.preprocessing.pairs import chance
from megatron_lmt.preprocessing.records import read_lines
from megatron_lmt.sft.code_switching import Augmentation
from megatron_lmt.sft.config import SftConfig, SftInput, sft_inputs
from megatron_lmt.sft.contamination import Contamination
from megatron_lmt.sft.prompts import CONTROL_TOKENS, END_OF_TURN, ChatTurn, render_prompt
from megatron_lmt.sft.report import SftReport
from megatron_lmt.toml_config import apply_override, load_toml, validate


def build_sft_corpus(
    config_file: Path,
    output: Path,
    tokenizer: Path | None = None,
    root: str | None = None,
    workers: int = 1,
    overrides: Sequence[str] = (),
) -> SftReport:
    """Write `<source>-<target>.jsonl` with records of `prompt` (a chat up to the answer), `target` and `id`.

    Args:
        output: a new folder; all counts are in its corpus.json, and pairs that cannot be used beside it, in
            `<output>.rejected.jsonl.gz`. A direction of which downsampling leaves nothing has no file.
        tokenizer: instead of the config's `chat_template_from`.
        root: instead of the config's own.
        workers: processes for `[clean]`, see `Cleaner`.
        overrides: such as `downsample.rate=0.2`; the value is TOML.
    Raises:
        UserError: the config, missing inputs (all of them), the first bad line, or a known test set among the inputs.
    """
    content = load_toml(config_file)
    for override in overrides:
        apply_override(content, override)
    config = validate(SftConfig, content, str(config_file))
    folder = resolve_root(root or config.root, config_file)
    sources = sft_inputs(config, folder)
    contamination = Contamination(config.evaluation, folder, sources)
    check_inputs(sources)
    turn = ChatTurn(_tokenizer_folder(config, config_file, folder, tokenizer))
    augmentation = _augmentation(config, folder, sources)
    read: dict[str, int] = {}
    kept: Counter[str] = Counter()
    with CorpusFolder(output) as corpus, Cleaner(sources, folder, corpus, workers) as cleaner:
        builder = _Builder(config, turn, augmentation, corpus)
        report = builder.report
        for record in cleaner.keep(read_inputs(sources, read)):
            files, line, *texts = record
            rejection = _control_token(*texts) or contamination.check(files, *texts[:2])
            if rejection:
                cleaner.reject(record, rejection)
            else:
                kept[files.name] += 1
                builder.add_pair(files, line, *texts)
        contamination.refuse_test_sets()
        summary = {"config": config.model_dump(), "root": str(folder), "read": read, **cleaner.finish(read, kept)}
        report.overlap = contamination.overlap()
        corpus.finish({**summary, **report.as_dict()})
    return report


class _Builder:
    """Makes the records of each pair in both directions, and counts them in `report`."""

    def __init__(self, config: SftConfig, turn: ChatTurn, augmentation: Augmentation | None, corpus: CorpusFolder):
        self._config = config
        self._turn = turn
        self._augmentation = augmentation
        self._corpus = corpus
        self.report = SftReport()

    def add_pair(self, files: SftInput, line: int, source_text: str, target_text: str, auxiliary_text: str | None) -> None:
        auxiliary = (files.auxiliary, auxiliary_text) if auxiliary_text is not None else None
        self._add_instance(files, line, files.source, files.target, source_text, target_text, auxiliary)
        self._add_instance(files, line, files.target, files.source, target_text, source_text, auxiliary)

    def _add_instance(
        self,
        files: SftInput,
        line: int,
        source: str,
        target: str,
        text: str,
        translation: str,
        auxiliary: tuple[str, str] | None,
    ) -> None:
        config, direction, place = self._config, f"{source}-{target}", f"{files.name}:{line}"
        is_kept = _is_kept(config, files, line, source, target)
        wants_pmp = chance(config.seed, "pmp", files.name, line, direction) < config.pmp.share
        self.report.count(direction, translation, is_kept, wants_pmp, auxiliary is not None)
        if not is_kept:
            return
        prompt = render_prompt(config.template, source, target, text, auxiliary if wants_pmp else None)
        for _ in range(self._augmentation.repeats(source, target) if self._augmentation else 1):
            self._add_record(direction, prompt, translation, place)
        for switched in self._augmentation.switched(source, target, text, place, direction) if self._augmentation else ():
            prompt = render_prompt(config.template, source, target, switched)
            self._add_record(direction, prompt, translation, f"{place}:code-switched")
            self.report.directions[direction].code_switched += 1

    def _add_record(self, direction: str, prompt: str, translation: str, place: str) -> None:
        record = {"prompt": self._turn.render(prompt), "target": translation + END_OF_TURN, "id": place}
        self._corpus.add(direction, record)


def _augmentation(config: SftConfig, root: Path, sources: list[SftInput]) -> Augmentation | None:
    """What to add to pairs of languages with few sentences, which are counted for this."""
    if config.augment is None:
        return None
    pairs: Counter[frozenset[str]] = Counter()
    for files in sources:
        pairs[frozenset((files.source, files.target))] += sum(1 for _ in read_lines(files.paths[0]))
    return Augmentation(config.augment, root, pairs, config.seed)


def _is_kept(config: SftConfig, files: SftInput, line: int, source: str, target: str) -> bool:
    """Whether Strategic Downsampling keeps this instance."""
    downsample = config.downsample
    is_in_scope = files.multi_way or downsample.scope == "all"
    applies = is_downsampled(source, target) or (not downsample.exempt_en_zh and {source, target} == {"en", "zh"})
    if not (is_in_scope and applies):
        return True
    return chance(config.seed, files.name, line, f"{source}-{target}") < downsample.rate


def _control_token(*texts: str | None) -> Rejection | None:
    """Why these texts cannot be put into a chat: they would end a turn."""
    found = [token for token in CONTROL_TOKENS if any(text and token in text for text in texts)]
    return Rejection("control_token", " ".join(found)) if found else None


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
