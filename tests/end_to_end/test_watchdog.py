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


BAD_DISK = """
import sys, time
from pathlib import Path
from megatron_lmt.config import JobSection, ParallelSection
from megatron_lmt.errors import UserError, run_command
from megatron_lmt.runtime.device import open_device
device = open_device()
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.attendance import attend
from megatron_lmt.runtime.signals import Requests
parallel.open_process_groups(ParallelSection(), device, seed=1)

def main():
    with attend(Path(sys.argv[1]), 0, JobSection(hang_seconds=1), Requests()) as attendance:
        owner = Path(sys.argv[1]) / "job/incarnation.json"
        owner.unlink()
        owner.mkdir()
        attendance.enter("iteration 2: the end")
        time.sleep(float(sys.argv[2]))
        raise UserError("the checkpoint could not be written")

run_command(main)
"""


@pytest.mark.parametrize(("seconds", "code"), [("60", HANG_EXIT_CODE), ("0", 2)])
def test_a_disk_that_takes_no_last_words_hinders_no_end(tmp_path, seconds, code):
    """Neither those, nor the sign of life of the first process."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "errors").touch()
    output = run([sys.executable, "-c", BAD_DISK, str(tmp_path), seconds], code)
    assert f"[rank 0] nothing could be left in {tmp_path}/job/errors: " in output and "Traceback" not in output
    if code == 2:
        assert "error: the checkpoint could not be written" in output
    else:
        assert "no progress for 1 s in: iteration 2: the end" in output
        assert f"[rank 0] {tmp_path}/job/incarnation.json cannot be renewed: [Errno 21]" in output
