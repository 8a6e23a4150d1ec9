"""The resume self-test: `train.resume_check = N` in the run file.

After iteration N the run saves and trains a few iterations more. Then every process is replaced by a fresh one (exec),
which loads that checkpoint as any resume does and takes the same iterations again. Losses and gradient norms must be the
same. The run goes on from there; the cost is one start and those iterations. `resume_check.json` has the figures.

A first iteration after loading shows the weights, the ones after it the optimizer's state, since they feel its update: N
should come after the warm-up, where the learning rate is high enough for that.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch.distributed as dist

from megatron_lmt.errors import UserError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.run_card import RESUME_CHECK

CHECKED_ITERATIONS = 3
TOLERANCE = 1e-3
"""Relative; some GPU kernels add in another order each time. Lost moments or weights are far beyond it."""


class ResumeCheck:
    """Where the self-test of a run stands. All processes call its methods together.

    Args:
        save_at: iteration to save after; None: no test is wanted.
        resumed_at: iteration of the checkpoint that this process started from, 0 without.
    """

    def __init__(self, run_dir: Path, save_at: int | None, resumed_at: int):
        self._report, self._save_at = run_dir / RESUME_CHECK, save_at
        self._last = (save_at or 0) + CHECKED_ITERATIONS
        state = [json.loads(self._report.read_text()) if self._report.is_file() else {}]
        dist.broadcast_object_list(state)
        self._before: dict[str, dict] | None = state[0].get("before")
        self._is_over = save_at is None or state[0].get("passed", False) or resumed_at >= self._last
        self._seen: dict[str, dict] = {}

    def saves_after(self, iteration: int) -> bool:
        return not self._is_over and iteration == self._save_at

    def forbids_saving(self, iteration: int) -> bool:
        """The fresh process must find the checkpoint of the test as the newest."""
        return not self._is_over and self._save_at < iteration < self._last

    def step(self, record: dict) -> list[str]:
        """Take notice of an iteration.

        Args:
            record: with `iteration`, `lm_loss`, `grad_norm`.
        Returns:
            lines for the log, when the test is over.
        Raises:
            UserError: the fresh process came to other losses.
        """
        iteration = record["iteration"]
        if self._is_over or not self._save_at < iteration <= self._last:
            return []
        self._seen[str(iteration)] = {key: record[key] for key in ("lm_loss", "grad_norm")}
        if iteration < self._last or self._before is None:
            return []
        return self._compare()

    def wants_fresh_process(self, iteration: int) -> bool:
        """Whether the first half of the test is done; its figures are on disk then."""
        if self._is_over or self._before is not None or iteration != self._last:
            return False
        if dist.get_rank() == 0:
            write_json_atomically(self._report, {"saved_after": self._save_at, "before": self._seen})
        dist.barrier()
        return True

    def _compare(self) -> list[str]:
        both = [iteration for iteration in self._before if iteration in self._seen]
        worst = max((_difference(self._before[i], self._seen[i]) for i in both), default=math.inf)
        passed = worst <= TOLERANCE
        report = {
            "saved_after": self._save_at,
            "before": self._before,
            "after": self._seen,
            "largest_relative_difference": worst if both else None,
            "passed": passed,
        }
        if dist.get_rank() == 0:
            write_json_atomically(self._report, report)
        if not passed:
            raise UserError(
                f"resume check: iterations {', '.join(both) or 'none'} after the checkpoint of iteration {self._save_at} "
                f"differ by up to {worst:.1e} in a fresh process (relative, of loss and gradient norm; {TOLERANCE:g} is "
                f"allowed): this run cannot be resumed as it is. See {self._report}"
            )
        self._is_over = True
        how = "bit-equal" if worst == 0 else f"equal to {worst:.1e}"
        return [f"resume check passed: iterations {', '.join(both)} are {how} in a fresh process, see {self._report}"]


def _difference(before: dict, after: dict) -> float:
    """The largest relative difference; infinite where a figure is missing on one side only."""
    worst = 0.0
    for key, old in before.items():
        new = after[key]
        if old is None or new is None:
            worst = worst if old is new else math.inf
        else:
            worst = max(worst, abs(new - old) / max(abs(old), 1e-12))
    return worst
