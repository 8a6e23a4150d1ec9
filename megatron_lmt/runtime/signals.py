"""What is asked of a run from outside, by signals and by files; it is acted on at the end of a step.

TERM and USR1 ask for a checkpoint and a clean exit. So does a file named EXIT in the run directory, which also keeps
later starts from training until it is removed; a file named SAVE asks for a checkpoint, and is removed when it is there.
Files let a colleague act who may not signal the job.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAVE_FILE = "SAVE"
EXIT_FILE = "EXIT"


class Requests:
    """Remembers that a stop signal arrived. It only sets a flag: a checkpoint inside a handler would tear a step apart.

    All ranks must agree before they act, since a signal can reach them in different steps, and files are looked for by
    one rank only: the trainer sums `flags` over all processes with the loss.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._folder: Path | None = None
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def watch_files(self, folder: Path) -> None:
        """Look for SAVE and EXIT in this folder from now on; for the first process."""
        self._folder = folder

    @property
    def exit_file(self) -> bool:
        return self._folder is not None and (self._folder / EXIT_FILE).exists()

    @property
    def flags(self) -> tuple[float, float]:
        """Of this process: 1.0 if the run is to stop, and 1.0 if it is to save."""
        save = self._folder is not None and (self._folder / SAVE_FILE).exists()
        return float(self.received is not None or self.exit_file), float(save)

    def saved(self) -> None:
        """The checkpoint that was asked for is complete."""
        if self._folder is not None:
            (self._folder / SAVE_FILE).unlink(missing_ok=True)
