"""Score sentence pairs with a reference-free COMET model (CometKiwi), for [clean.quality] of the corpus builder."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_lmt.arguments import at_least
from megatron_lmt.corpus.score_pairs import score_pairs
from megatron_lmt.errors import run_tool
from megatron_lmt.eval.comet import Comet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML of build_corpus.py cpt, with clean.quality.scores")
    parser.add_argument("--root", help="folder of the inputs, instead of the one in the config")
    parser.add_argument("--only", nargs="+", metavar="PAIR", help="score these, such as en-de: one job for each")
    parser.add_argument("--comet-checkpoint", type=Path, required=True, help="folder of a downloaded model")
    parser.add_argument("--comet-python", type=Path, required=True, help="its own interpreter: tools/setup_comet.sh")
    parser.add_argument("--batch-size", type=at_least(1), default=16, metavar="N", help="pairs (default: 16)")
    arguments = parser.parse_args()
    comet = Comet(arguments.comet_checkpoint, arguments.comet_python, arguments.batch_size)
    written = score_pairs(arguments.config, comet, arguments.root, arguments.only)
    print("\n".join(f"{count:,} scores → {path}" for path, count in written.items()) or "all scores are there")


if __name__ == "__main__":
    run_tool(main)
