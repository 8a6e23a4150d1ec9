"""The quickstart's report: training sentences translated by the exported model beside their references, and pictures."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from megatron_lmt.errors import run_command
from megatron_lmt.eval.translate import Translator

DIRECTIONS = ["en-zh", "en-es", "en-ja", "en-ru", "zh-en", "es-en", "ja-en", "ru-en"]
SENTENCES = 16
SHOWN = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the quickstart's work directory")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    arguments = parser.parse_args()
    arguments.output.mkdir()
    for run in ("cpt", "sft"):
        for picture in ("mixture", "loss"):
            shutil.copyfile(arguments.work / run / f"{picture}.png", arguments.output / f"{run}_{picture}.png")
    translator = Translator(arguments.work / "model")
    blocks = [_direction(translator, arguments.corpus, direction) for direction in DIRECTIONS]
    exact = sum(count for count, _ in blocks)
    lines = [
        f"{exact} of {len(DIRECTIONS) * SENTENCES} training sentences are translated exactly as in the corpus, "
        f"{SENTENCES} in each of {len(DIRECTIONS)} directions.",
        "The model has 2 million parameters and has seen only these sentences: it has memorised them. This shows that the",
        "path from text to translations works. It says nothing about the quality of translations of other sentences.",
        "",
        *(line for _, block in blocks for line in block),
    ]
    (arguments.output / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _direction(translator: Translator, corpus: Path, direction: str) -> tuple[int, list[str]]:
    """How many of the sentences are translated exactly, and lines that show some of them."""
    source, target = direction.split("-")
    texts, references = ((corpus / f"{code}.txt").read_text(encoding="utf-8").split("\n")[:-1] for code in (source, target))
    chosen = range(0, len(texts), len(texts) // SENTENCES)[:SENTENCES]
    translations = translator.translate([texts[i] for i in chosen], source, target, num_beams=1, max_new_tokens=64)
    rows = [(texts[i], translation, references[i]) for i, translation in zip(chosen, translations, strict=True)]
    exact = sum(translation == reference for _, translation, reference in rows)
    lines = [f"{direction}: {exact} of {SENTENCES} exact"]
    for text, translation, reference in rows[:SHOWN]:
        mark = "=" if translation == reference else "x"
        lines += [f"    source      {text}", f"  {mark} translation {translation}", f"    reference   {reference}"]
    return exact, [*lines, ""]


if __name__ == "__main__":
    run_command(main)
