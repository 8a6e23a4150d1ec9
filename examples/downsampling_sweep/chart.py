"""The sweep's chart and table: validation loss, and scores where there are some, against the rate of downsampling."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megatron_lmt.errors import run_command
from megatron_lmt.eval.report import groups_of
from megatron_lmt.text_table import text_table

GROUPS = {"x-en": "X→en", "x-zh": "X→zh", "en-x": "en→X", "zh-x": "zh→X"}
COLOURS = {"x-en": "#c0392b", "x-zh": "#e08e0b", "en-x": "#2c6fbb", "zh-x": "#3a9d5d"}
PIVOTS = ("en-zh", "zh-en")
LOSS = "validation loss per target token"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the sweep's work directory")
    parser.add_argument("--rates", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    arguments = parser.parse_args()
    runs = {rate: _read(arguments.work, rate) for rate in arguments.rates}
    measures = [name for name in (LOSS, "comet", "chrf++") if all(name in run for run in runs.values())]
    arguments.output.mkdir()
    _draw(runs, measures, arguments.output / "downsampling.png")
    lines = [line for name in measures for line in [f"{name}:", *_table(runs, name), ""]]
    lines += [
        f"Each run had {runs[arguments.rates[0]]['iterations']} steps: more of X→en and X→zh means less of en→X and zh→X.",
        "The loss is on FLORES dev sentences at the end of each run. A model of a few million parameters cannot translate:",
        "it shows whether a direction is learned from its source, or its few targets by heart. LMT's peak near 5 % (arXiv",
        "2511.07003, figure 3) is of the quality of translations, and takes a pre-trained model and --evaluate.",
    ]
    (arguments.output / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(work: Path, rate: str) -> dict:
    """What one run was trained on, its last validation and, by metric, its scores; these as means of each group."""
    corpus = json.loads((work / f"p{rate}.text" / "corpus.json").read_text(encoding="utf-8"))
    into_pivots = [
        counts
        for direction, counts in corpus["directions"].items()
        if direction.endswith(("-en", "-zh")) and direction not in PIVOTS
    ]
    last = json.loads((work / f"p{rate}" / "validation.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {
        "kept": sum(counts["after"] for counts in into_pivots),
        "there": sum(counts["before"] for counts in into_pivots),
        "repetition": corpus["target_repetition"]["en"]["after"],
        "iterations": last["iteration"],
        LOSS: {group: last[f"validation_loss/{group}"] for group in GROUPS},
        **_scores(work / f"p{rate}.scores" / "scores.jsonl"),
    }


def _scores(file: Path) -> dict[str, dict[str, float]]:
    if not file.is_file():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = {}
    for metric in ("comet", "chrf++"):
        if metric in records[0]:
            by_group: dict[str, list[float]] = {group: [] for group in GROUPS}
            for record in records:
                if record["direction"] not in PIVOTS:
                    (group,) = groups_of(record["direction"])
                    by_group[group].append(record[metric])
            found[metric] = {group: sum(values) / len(values) for group, values in by_group.items()}
    return found


def _table(runs: dict[str, dict], name: str) -> list[str]:
    header = ("p", "X→en, X→zh kept", "sources of an English target", *GROUPS.values())
    rows = [
        (
            f"{float(rate):.1%}",
            f"{run['kept']:,} of {run['there']:,}",
            f"{run['repetition']:.1f}",
            *(f"{run[name][group]:.3f}" for group in GROUPS),
        )
        for rate, run in runs.items()
    ]
    choose = min if name == LOSS else max
    best = (f"{float(choose(runs, key=lambda rate: runs[rate][name][group])):.1%}" for group in GROUPS)
    return text_table(header, [*rows, ("best p", "", "", *best)])


def _draw(runs: dict[str, dict], measures: list[str], path: Path) -> None:
    figure = Figure(figsize=(7 * len(measures), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    places = range(len(runs))  # equally far apart: on a logarithmic scale they are that, about, and 0 has no place there
    for axes, name in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for group, title in GROUPS.items():
            axes.plot(places, [run[name][group] for run in runs.values()], marker="o", color=COLOURS[group], label=title)
        axes.set_xticks(places, [f"{float(rate) * 100:g} %" for rate in runs])
        axes.set_xlabel("p, share of X→en and X→zh that is kept")
        axes.set_ylabel(name)
        axes.set_title("Strategic Downsampling", fontsize=10, loc="left")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    run_command(main)
