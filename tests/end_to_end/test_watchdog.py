"""A process that does not move is ended with the place where it stands; what is done between steps may take longer."""

import sys

import pytest

from megatron_lmt.runtime.last_words import read_all
from megatron_lmt.runtime.watchdog import HANG_EXIT_CODE
from tests.end_to_end.processes import run

SCRIPT = """
import sys, time
from pathlib import Path
from megatron_lmt.config import JobSection, ParallelSection
from megatron_lmt.runtime.device import open_device
device = open_device()
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.attendance import attend
from megatron_lmt.runtime.signals import Requests
parallel.open_process_groups(ParallelSection(), device, seed=1)
job = JobSection(hang_seconds=2, hang_seconds_between_steps=5)
with attend(Path(sys.argv[1]), 0, job, Requests()) as attendance:
    attendance.enter_between_steps("checkpoint of iteration 1")
    time.sleep(3)
    attendance.enter("iteration 2: forward and backward")
    for _ in range(10):
        time.sleep(0.3)
        attendance.alive()
    print("alive so far", flush=True)
    getattr(attendance, sys.argv[2])("iteration 2: the end")
    time.sleep(60)
"""


@pytest.mark.parametrize(("kind", "seconds"), [("enter", 2), ("enter_between_steps", 5)])
def test_a_long_save_and_many_micro_batches_are_no_hang_and_standing_still_is_one(tmp_path, kind, seconds):
    output = run([sys.executable, "-c", SCRIPT, str(tmp_path), kind], code=HANG_EXIT_CODE)
    assert "alive so far" in output
    assert f"no progress for {seconds} s in: iteration 2: the end" in output
    (words,) = read_all(tmp_path)
    assert (words.kind, words.where) == ("hang", "iteration 2: the end")
    assert "<module>" in words.text
