"""Pictures of a run: its mixture and its loss, as PNG in the run directory."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt.runtime.metrics import METRICS, VALIDATION

MOST_NAMED = 12
"""Curves that a legend has room for."""


def draw_run(output_dir: Path) -> None:
    """Draw `mixture.png` from ledger.json, and `loss.png`, losses and throughput, from the metric files."""
    ledger = json.loads((output_dir / "ledger.json").read_text(encoding="utf-8"))
    _draw_mixture(ledger, output_dir / "mixture.png")
    groups = list(dict.fromkeys(row["group"] for row in ledger))
    _draw_run(_read_lines(output_dir / METRICS), groups, _read_lines(output_dir / VALIDATION), output_dir / "loss.png")


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _new_axes(width: float, height: float, rows: int = 1, sharex: bool = False):
    # drawn without pyplot: it holds global state and looks for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, squeeze=False, sharex=sharex)[:, 0]


def _draw_mixture(ledger: list[dict], path: Path) -> None:
    _draw_sources([(row["group"], row["source"], row["tokens"]) for row in ledger], "tokens consumed", path)


def draw_plan(rows: list[dict], path: Path) -> None:
    """Draw what a run will consume of each source, from the rows of `data/planner.py`."""
    _draw_sources([(row["group"], row["source"], row["planned_tokens"]) for row in rows], "tokens to consume", path)


def _draw_sources(rows: list[tuple[str, str, float]], label: str, path: Path) -> None:
    """A panel for each group with a bar for each source; the dashed line is the group's mean.

    Args:
        rows: group, source, tokens.
    """
    from matplotlib.ticker import EngFormatter

    groups = list(dict.fromkeys(group for group, _, _ in rows))
    longest = max(sum(name == group for name, _, _ in rows) for group in groups)
    figure, panels = _new_axes(min(max(6, longest * 0.16), 24), 2.6 * len(groups), len(groups))
    for group, axes in zip(groups, panels, strict=True):
        names = [source.removeprefix(f"{group}/") for name, source, _ in rows if name == group]
        tokens = [count for name, _, count in rows if name == group]
        axes.bar(range(len(names)), tokens, color="#3b6ea5")
        axes.axhline(sum(tokens) / len(tokens), color="#888888", linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6 if len(names) > 20 else 8)
        title = f"{group}: {sum(tokens):,.0f} tokens from {len(names)} sources (dashed: their mean)"
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.01)
    figure.savefig(path, dpi=130)


def _draw_run(steps: list[dict], groups: list[str], validations: list[dict], path: Path) -> None:
    """Three panels over the iterations: training loss, of all and of each group; validation loss; throughput."""
    figure, panels = _new_axes(9, 9 if validations else 6.5, 3 if validations else 2, sharex=True)
    loss_axes, *validation_axes, speed_axes = panels
    _draw_curve(loss_axes, steps, "lm_loss", "all", linewidth=2)
    for group in groups if len(groups) > 1 else ():
        _draw_curve(loss_axes, steps, f"loss/{group}", group)
    skipped = _iterations_skipped(steps)
    for iteration in skipped:
        loss_axes.axvline(iteration, color="#c03030", linewidth=0.8, label="skipped" if iteration == skipped[0] else None)
    loss_axes.set_ylabel("training loss per token (nats)")
    loss_axes.legend(fontsize=8)
    for axes in validation_axes:
        _draw_validation(axes, validations)
    _draw_curve(speed_axes, steps, "tokens_per_second_per_gpu", "tokens/s/GPU", linewidth=1.5)
    speed_axes.set_ylabel("tokens per second per GPU")
    speed_axes.set_ylim(bottom=0)
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("iteration")
    figure.savefig(path, dpi=130)


def _draw_curve(axes, steps: list[dict], name: str, label: str, linewidth: float = 1.2) -> None:
    """The running mean over a fiftieth of the run, above each iteration's value in a pale line."""
    points = [(step["iteration"], step[name]) for step in steps if step.get(name) is not None]
    if not points:
        return
    iterations, values = zip(*points, strict=True)
    window = max(1, len(values) // 50)
    recent = [values[max(0, i - window) : i + 1] for i in range(len(values))]
    (line,) = axes.plot(iterations, [sum(part) / len(part) for part in recent], linewidth=linewidth, label=label)
    axes.plot(iterations, values, color=line.get_color(), linewidth=0.6, alpha=0.3)


def _iterations_skipped(steps: list[dict]) -> list[int]:
    before = 0
    iterations = []
    for step in steps:
        if step["skipped_iterations"] > before:
            iterations.append(step["iteration"])
        before = step["skipped_iterations"]
    return iterations


def _draw_validation(axes, validations: list[dict]) -> None:
    """A curve for each validation set; of many the mean, and the names of the lowest and highest at the end."""
    iterations = [validation["iteration"] for validation in validations]
    prefix = "validation_loss/"
    curves = {
        name.removeprefix(prefix): [v[name] for v in validations] for name in validations[0] if name.startswith(prefix)
    }
    axes.set_ylabel("validation loss per token (nats)")
    if len(curves) <= MOST_NAMED:
        for name, values in curves.items():
            axes.plot(iterations, values, marker="o", markersize=3, linewidth=1, label=name)
        axes.legend(fontsize=8)
        return
    by_loss = [name for _, name in sorted((values[-1], name) for name, values in curves.items() if values[-1] is not None)]
    for number, values in enumerate(curves.values()):
        label = None if number else f"at the end lowest {', '.join(by_loss[:3])}; highest {', '.join(by_loss[:-4:-1])}"
        axes.plot(iterations, values, color="#888888", linewidth=0.6, alpha=0.6, label=label)
    columns = ([value for value in column if value is not None] for column in zip(*curves.values(), strict=True))
    means = [sum(column) / len(column) if column else None for column in columns]
    axes.plot(iterations, means, marker="o", markersize=3, linewidth=2, label=f"mean of {len(curves)}")
    axes.legend(fontsize=8)


def draw_heat_map(rows: list[str], columns: list[str], values: dict[tuple[str, str], float], title: str, path: Path) -> None:
    """Draw a number for each row and column; those without one stay grey."""
    from matplotlib import colormaps

    figure, (axes,) = _new_axes(1.2 + 1.1 * len(columns), 1.2 + 0.22 * len(rows))
    grid = [[values.get((row, column), float("nan")) for column in columns] for row in rows]
    colors = colormaps["viridis"].with_extremes(bad="#dddddd")
    image = axes.imshow(grid, aspect="auto", cmap=colors)
    middle = (min(values.values()) + max(values.values())) / 2
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            if (value := values.get((row, column))) is not None:
                color = "white" if value < middle else "black"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.xaxis.tick_top()
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.05)
    figure.savefig(path, dpi=130)
