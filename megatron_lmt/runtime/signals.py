"""TERM and USR1 ask for a checkpoint and a clean exit; the request is acted on at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a stop signal arrived. It only sets a flag: a checkpoint inside a handler would tear a step apart.

    All ranks must agree before they stop, since a signal can reach them in different steps: the trainer sums `flag` over
    all processes with the loss.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    @property
    def flag(self) -> float:
        return 0.0 if self.received is None else 1.0
