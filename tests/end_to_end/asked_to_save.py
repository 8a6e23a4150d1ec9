"""Started by test_resume_check: the trainer, and somebody who asks for a checkpoint as soon as that of the test is there."""

from megatron_lmt.runtime.device import open_device

open_device()

import megatron_lmt.loop as loop  # noqa: E402
from megatron_lmt.errors import run_command  # noqa: E402
from megatron_lmt.resume_check import ResumeCheck  # noqa: E402
from megatron_lmt.runtime.signals import SAVE_FILE  # noqa: E402
from megatron_lmt.train import main  # noqa: E402


class Asked(ResumeCheck):
    def step(self, record):
        if record["iteration"] == self._save_at + 1 and self._before is None:
            (self._report.parent / SAVE_FILE).touch()
        return super().step(record)


loop.ResumeCheck = Asked
run_command(main)
