"""Pictures of a run: its mixture and its loss, as PNG in the run directory."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt.runtime.metrics import METRICS, VALIDATION


def draw_run(output_dir: Path) -> None:
    """Draw `mixture.png` from ledger.json and `loss.png` from the metric files."""
    _draw_mixture(json.loads((output_dir / "ledger.json").read_text(encoding="utf-8")), output_dir / "mixture.png")
    _draw_loss(_read_lines(output_dir / METRICS), _read_lines(output_dir / VALIDATION), output_dir / "loss.png")


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _new_axes(width: float, height: float, rows: int = 1):
    # drawn without pyplot: it holds global state and looks for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, squeeze=False)[:, 0]


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
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    longest = max(sum(name == group for name, _, _ in rows) for group in groups)
    figure, panels = _new_axes(min(max(6, longest * 0.16), 24), 2.6 * len(groups), len(groups))
    for group, axes in zip(groups, panels, strict=True):
        names = [source.removeprefix(f"{group}/") for name, source, _ in rows if name == group]
        tokens = [count for name, _, count in rows if name == group]
        axes.bar(range(len(names)), tokens, color="#3b6ea5")
        axes.axhline(sum(tokens) / len(tokens), color="#888888", linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6 if len(names) > 20 else 8)
        axes.set_title(f"{group}: {sum(tokens):,.0f} tokens from {len(names)} sources", fontsize=10, loc="left")
        axes.set_ylabel(label)
        axes.margins(x=0.01)
    figure.savefig(path, dpi=130)


def _draw_loss(steps: list[dict], validations: list[dict], path: Path) -> None:
    figure, (axes,) = _new_axes(8, 4.5)
    iterations, losses = [step["iteration"] for step in steps], [step["lm_loss"] for step in steps]
    axes.plot(iterations, losses, color="#3b6ea5", linewidth=0.8, alpha=0.35, label="training, each iteration")
    window = max(1, len(losses) // 50)
    means = [sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1]) for i in range(len(losses))]
    axes.plot(iterations, means, color="#3b6ea5", linewidth=1.5, label=f"training, mean of {window + 1} iterations")
    for name in validations[0] if validations else ():
        if name != "iteration":
            points = [v["iteration"] for v in validations], [v[name] for v in validations]
            axes.plot(*points, marker="o", markersize=3, linewidth=1, label=name.removeprefix("validation_loss/"))
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss per predicted token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
