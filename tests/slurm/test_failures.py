"""Jobs that fail: the end of the log says why and where, and nothing goes on for ever."""

import signal

import pytest

from tests.conftest import REPOSITORY, make_run
from tests.slurm.jobs import submit

# rank 3 raises an error in its main thread when it gets this signal
FAULT = """
import os, signal

def fail(*_):
    raise RuntimeError("injected: uncorrectable ECC error")

if os.environ.get("RANK") == "3":
    signal.signal(signal.SIGRTMIN, fail)
"""

ENDLESS = ("train.train_iters=100000", "checkpoint.save_interval=50000", "validation.eval_interval=50000")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("failures")
    (folder / "sitecustomize.py").write_text(FAULT)
    return make_run(folder, quickstart_tokenizer, tiny_tokens)


def end_of(log):
    """What stands between the two lines at the end of the log."""
    assert log.count("=" * 40) == 2, log
    return log.split("=" * 40)[1].strip()


def test_the_error_of_a_failed_rank_is_at_the_end_of_the_log(cluster, run_file, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(run_file.parent), prepend=":")
    job = submit(cluster, run_file, *ENDLESS, "output_dir=error")
    job.wait_for_iteration(3)
    job.rank(3).send_signal(signal.SIGRTMIN)
    end = end_of(job.wait_until_ended("FAILED"))
    assert end.startswith("rank 3 on node2 failed first") and ", in iteration " in end.splitlines()[0]
    assert end.endswith("RuntimeError: injected: uncorrectable ECC error")


def test_killed_ranks_are_named_and_starts_without_progress_come_to_an_end(cluster, run_file):
    site = run_file.parent / "site.sh"
    site.write_text((REPOSITORY / "slurm/site.sh").read_text().replace("_FAILURE=no", "_FAILURE=yes"))
    options = (f"--export=ALL,MEGATRON_LMT_SITE={site}",)
    job = submit(cluster, run_file, *ENDLESS, "output_dir=killed", "job.max_starts_without_progress=1", options=options)
    job.wait_for_iteration(3)
    job.rank(2).kill()
    log = job.wait_until_ended("FAILED")
    assert end_of(log).startswith("rank 2 on node2 ended first: Killed")
    assert "REQUEUE_AFTER_FAILURE=yes; back to the queue" in log
    assert "1 starts in a row ended before a checkpoint after iteration 0, so this one does not start" in log
    assert job.field("Restarts") == "1"


def test_a_stopped_rank_is_found_and_the_job_ends_saying_where_each_rank_is(cluster, run_file):
    job = submit(cluster, run_file, *ENDLESS, "output_dir=hung", "job.hang_seconds=20")
    job.wait_for_iteration(3)
    stopped = job.rank(3)
    stopped.suspend()
    log = job.wait_until_ended("FAILED")
    end = end_of(log)
    assert end.startswith("the run hung; where each rank was")
    for rank, node in ((0, "node1"), (1, "node1"), (2, "node2")):
        assert f"{rank} ({node})" in end
    assert ": iteration " in end and "in _step" in end
    assert "rank 3 (node2): unknown\nno answer; process " in end and " is stopped" in end
    assert "(most recent call first):" in log  # its stack
