"""Build the text of continued pre-training (cpt) or supervised fine-tuning (sft): one jsonl file for each source."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from megatron_lmt.corpus.cleaning import rejection_table
from megatron_lmt.corpus.cpt import CptConfig, build_cpt_corpus
from megatron_lmt.errors import ConfigError, run_tool
from megatron_lmt.preprocessing.inputs import CORPUS_REPORT
from megatron_lmt.sft.config import SftConfig
from megatron_lmt.sft.corpus import build_sft_corpus
from megatron_lmt.toml_config import load_toml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for stage, text in (("cpt", "documents and pairs in LMT's format"), ("sft", "chat prompts and their targets")):
        command = stages.add_parser(stage, help=text)
        command.add_argument("--config", type=Path, required=True, help="TOML file that names the inputs")
        command.add_argument("--output", type=Path, required=True, help="new folder for the jsonl files")
        command.add_argument("--root", help="folder of the inputs, instead of the one in the config")
        command.add_argument("--workers", type=int, default=1, metavar="N", help="processes for [clean] (default: 1)")
        if stage == "sft":
            command.add_argument("--tokenizer", type=Path, help="folder with the chat template, instead of the config's")
            command.add_argument("overrides", nargs="*", metavar="key=value", help="such as downsample.rate=0.2")
    arguments = parser.parse_args()
    _check_stage(arguments.stage, arguments.config)
    if arguments.stage == "cpt":
        records = build_cpt_corpus(arguments.config, arguments.output, arguments.root, arguments.workers)
        mono = [count for name, count in records.items() if name.startswith("mono.")]
        parallel = [count for name, count in records.items() if not name.startswith("mono.")]
        print(f"{len(mono)} monolingual sources: {sum(mono):,} documents")
        print(f"{len(parallel)} directions: {sum(parallel):,} documents → {arguments.output}")
    else:
        report = build_sft_corpus(
            arguments.config,
            arguments.output,
            arguments.tokenizer,
            arguments.root,
            arguments.workers,
            arguments.overrides,
        )
        print("\n".join([*report.summary(), f"→ {arguments.output}"]))
    _print_rejected(arguments.output)


def _check_stage(stage: str, config: Path) -> None:
    """
    Raises:
        ConfigError: it has keys that only a config of the other stage has.
    """
    keys, models = load_toml(config).keys(), {"cpt": CptConfig, "sft": SftConfig}
    fitting = [name for name, model in models.items() if keys <= model.model_fields.keys()]
    if fitting and stage not in fitting:
        raise ConfigError(f"{config}: made for `tools/build_corpus.py {fitting[0]}`, not for {stage}")


def _print_rejected(output: Path) -> None:
    report = json.loads((output / CORPUS_REPORT).read_text(encoding="utf-8"))
    if report["rejected"]:
        print("\n".join(["rejected:", *rejection_table(report), f"kept in {output}.rejected.jsonl.gz"]))


if __name__ == "__main__":
    run_tool(main)
