"""Directional degeneration: X→en or X→zh gets worse while en→X or zh→X gets better (arXiv 2511.07003 v2, section 2).

It is what happens when many languages share their target sentences. The remedy is Strategic Downsampling
(`downsample` of the mixture, or `tools/build_corpus.py sft`). Watched in the validation loss and in the metrics of
`snapshots.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.languages import PIVOTS, languages

PATIENCE = 2
"""Records in a row that must show it: one alone is often noise."""
LEAST_LOSS_RISE = 0.05
"""In nats per token: how much worse than at its best the validation loss of X→pivot must be."""

Scores = dict[str, float]
"""Direction → a score of which more is better."""

_LAST_PART = re.compile(r"(?:^|[/.])([a-z]+)-([a-z]+)$")


@dataclass(frozen=True)
class Degeneration:
    """X→pivot fell from its best, `best_iteration`, to now, and pivot→X rose. The scores are means over `languages`."""

    pivot: str
    languages: tuple[str, ...]
    best_iteration: int
    iteration: int
    into_pivot: tuple[float, float]
    from_pivot: tuple[float, float]

    def __str__(self) -> str:
        (into_best, into_now), (from_best, from_now) = self.into_pivot, self.from_pivot
        return (
            f"directional degeneration: since iteration {self.best_iteration} X→{self.pivot} fell from {into_best:.3f} to "
            f"{into_now:.3f} while {self.pivot}→X rose from {from_best:.3f} to {from_now:.3f} (means over "
            f"{len(self.languages)} languages, at iteration {self.iteration}). Keep less of X→{self.pivot}: see downsample"
        )


def directional_degeneration(history: list[tuple[int, Scores]], least_fall: float) -> list[Degeneration]:
    """What the last records show, for each pivot at most one.

    X→pivot must be below its best by `least_fall` in each of the last `PATIENCE` records, and pivot→X above what it was
    then. Only languages with both directions in every record count; en↔zh never does.

    Args:
        history: iteration and scores, in order of the iterations.
        least_fall: in units of the scores.
    """
    if len(history) <= PATIENCE:
        return []
    found = [_of_pivot(pivot, history, least_fall) for pivot in PIVOTS]
    return [degeneration for degeneration in found if degeneration]


def _of_pivot(pivot: str, history: list[tuple[int, Scores]], least_fall: float) -> Degeneration | None:
    members = [
        code
        for code in languages()
        if code not in PIVOTS and all({f"{code}-{pivot}", f"{pivot}-{code}"} <= scores.keys() for _, scores in history)
    ]
    if not members:
        return None

    def means(scores: Scores) -> tuple[float, float]:
        into, out = (
            [scores[d] for d in ds] for ds in zip(*((f"{c}-{pivot}", f"{pivot}-{c}") for c in members), strict=True)
        )
        return sum(into) / len(members), sum(out) / len(members)

    points = [(iteration, *means(scores)) for iteration, scores in history]
    before, recent = points[:-PATIENCE], points[-PATIENCE:]
    best_iteration, best_into, out_then = max(before, key=lambda point: point[1])
    if not all(best_into - into >= least_fall and out > out_then for _, into, out in recent):
        return None
    iteration, into, out = recent[-1]
    return Degeneration(pivot, tuple(members), best_iteration, iteration, (best_into, into), (out_then, out))


def degeneration_record(alerts: list[Degeneration]) -> dict[str, float]:
    """For a line of metrics: by how much X→pivot fell, under `directional_degeneration/<pivot>`."""
    return {f"directional_degeneration/{alert.pivot}": alert.into_pivot[0] - alert.into_pivot[1] for alert in alerts}


class DegenerationWatch:
    """Keeps the history of one file of records, and says what each new one shows.

    Args:
        file: jsonl of the records so far, such as validation.jsonl of a run that is resumed.
        scores_of: the scores in a record.
        least_fall: as in `directional_degeneration`.
    """

    def __init__(self, file: Path, scores_of: Callable[[dict], Scores], least_fall: float):
        self._scores_of, self._least_fall = scores_of, least_fall
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self._history = [self._point(json.loads(line)) for line in lines]

    def _point(self, record: dict) -> tuple[int, Scores]:
        return record["iteration"], self._scores_of(record)

    def see(self, record: dict) -> list[Degeneration]:
        self._history.append(self._point(record))
        return directional_degeneration(self._history, self._least_fall)


def validation_scores(record: dict) -> Scores:
    """Losses of a line of validation.jsonl with their sign changed, of the sources named after a direction.

    Such as `de-en`, `flores/de-en` or `dev.de-en`. The loss of the target tokens is taken where it is known.
    """
    scores = {}
    for prefix in ("validation_loss/", "validation_target_loss/"):  # the latter, where there, replaces the former
        for name, loss in record.items():
            direction = direction_of(name.removeprefix(prefix))
            if name.startswith(prefix) and direction and loss is not None:
                scores[direction] = -loss
    return scores


def direction_of(name: str) -> str | None:
    """The direction a source is named after; None for others."""
    match = _LAST_PART.search(name)
    if not match or not set(match.groups()) <= languages().keys():
        return None
    return "-".join(match.groups())
