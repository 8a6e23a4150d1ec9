"""Steps that must not reach the weights: a loss or gradient that is not finite, or a loss far above the recent ones.

Such a step is skipped: its data count as consumed, the weights stay, the schedule goes on. All processes judge by the
same numbers, and the state is part of the checkpoint, so a resumed run judges as an undisturbed one would.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

import numpy as np

from megatron_lmt.data.mixture import Sample
from megatron_lmt.text_table import listed

WINDOW = 100
"""Iterations that the median is taken over."""
ENOUGH = 20
"""Iterations before anything is called a spike: the loss falls fast at the start of a run."""
NAMED_SAMPLES = 8


class FaultJudge:
    """Counts what was skipped and remembers the recent losses.

    Args:
        loss_spike: nats per token above the median of the recent losses from which on a loss is a spike.
    """

    def __init__(self, loss_spike: float):
        self.loss_spike = loss_spike
        self.skipped = 0
        self.in_a_row = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def fault_of(self, loss: float) -> str | None:
        """Why a step with this loss must be skipped; None if it need not be."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if len(self._recent) >= ENOUGH and loss > median(self._recent) + self.loss_spike:
            return (
                f"the loss {loss:.3f} is more than train.loss_spike = {self.loss_spike} above the median of the last "
                f"{len(self._recent)} iterations, {median(self._recent):.3f}"
            )
        return None

    def record(self, loss: float, skipped: bool) -> None:
        """Take note of a step that is over."""
        if skipped:
            self.skipped += 1
            self.in_a_row += 1
        else:
            self.in_a_row = 0
            self._recent.append(loss)

    def state_dict(self) -> dict:
        """JSON-ready."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "recent_losses": list(self._recent)}

    def load_state_dict(self, state: dict) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self._recent = deque(state["recent_losses"], maxlen=WINDOW)


def name_samples(samples: list[Sample], losses: np.ndarray, first_sample: int, sources: list[str]) -> list[str]:
    """Lines of text: the samples with the worst losses, those that are not numbers first, with source and documents.

    Args:
        losses: float64 [samples], per predicted token.
        first_sample: number of the first sample over the whole run.
        sources: name of each source.
    """
    badness = np.where(np.isfinite(losses), losses, np.inf)
    worst = np.argsort(-badness, kind="stable")
    not_finite = int((~np.isfinite(losses)).sum())
    lines = [
        f"  sample {first_sample + i} | {sources[samples[i].source]} | loss {losses[i]:.3f} | documents "
        f"{listed(samples[i].pieces['document'].tolist())}"
        for i in worst[:NAMED_SAMPLES].tolist()
    ]
    if not_finite > NAMED_SAMPLES:
        lines.append(f"  and {not_finite - NAMED_SAMPLES} more samples whose loss is not a number")
    return lines
