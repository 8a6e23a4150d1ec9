"""The sweep's chart and table: validation loss of four groups of directions against the rate of downsampling."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megatron_lmt.data.ledger import text_table
from megatron_lmt.errors import run_command

GROUPS = {"x-en": "X→en", "x-zh": "X→zh", "en-x": "en→X", "zh-x": "zh→X"}
COLOURS = {"x-en": "#c0392b", "x-zh": "#e08e0b", "en-x": "#2c6fbb", "zh-x": "#3a9d5d"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the sweep's work directory")
    parser.add_argument("--rates", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    arguments = parser.parse_args()
    runs = {rate: _read(arguments.work, rate) for rate in arguments.rates}
    arguments.output.mkdir()
    _draw(runs, arguments.output / "downsampling.png")
    header = ("p", "X→en, X→zh kept", "sources of a target", *(f"loss {name}" for name in GROUPS.values()))
    rows = [
        (
            f"{float(rate):.1%}",
            f"{run['kept']:,} of {run['there']:,}",
            f"{run['repetition']:.1f}",
            *(f"{run['loss'][group]:.3f}" for group in GROUPS),
        )
        for rate, run in runs.items()
    ]
    best = {name: min(runs, key=lambda rate: runs[rate]["loss"][group]) for group, name in GROUPS.items()}
    lines = [
        *text_table(header, rows),
        "",
        "Loss per target token on FLORES dev sentences, at the end of each run. Lowest: "
        + ", ".join(f"{name} at p = {float(rate):.1%}" for name, rate in best.items())
        + ".",
        f"Each run had {runs[arguments.rates[0]]['iterations']} steps: more of X→en and X→zh means less of en→X and zh→X.",
        "A model of a few million parameters cannot translate. These losses show that the sweep works, and what is",
        "learned of each direction. LMT's peak near 5 % is of translation quality after pre-training (its figure 3);",
        "it takes a pre-trained model and scores of its translations (tools/evaluate_mt.py on an export of each run).",
    ]
    (arguments.output / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(work: Path, rate: str) -> dict:
    """What one run was trained on, and its last validation."""
    corpus = json.loads((work / f"p{rate}.text" / "corpus.json").read_text(encoding="utf-8"))
    into_pivots = [
        counts
        for direction, counts in corpus["directions"].items()
        if direction.endswith(("-en", "-zh")) and direction not in ("en-zh", "zh-en")
    ]
    validations = (work / f"p{rate}" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(validations[-1])
    return {
        "kept": sum(counts["after"] for counts in into_pivots),
        "there": sum(counts["before"] for counts in into_pivots),
        "repetition": corpus["target_repetition"]["en"]["after"],
        "iterations": last["iteration"],
        "loss": {group: last[f"validation_loss/{group}"] for group in GROUPS},
    }


def _draw(runs: dict[str, dict], path: Path) -> None:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(runs))  # the rates are about equally far apart on a logarithmic scale, except for 0
    for group, name in GROUPS.items():
        losses = [run["loss"][group] for run in runs.values()]
        axes.plot(places, losses, marker="o", color=COLOURS[group], label=name)
    axes.set_xticks(places, [f"{float(rate) * 100:g} %" for rate in runs])
    axes.set_xlabel("p, share of X→en and X→zh that is kept")
    axes.set_ylabel("validation loss per target token")
    axes.set_title("Strategic Downsampling", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    run_command(main)
