"""What one start of a run leaves for the next: counts of starts, the owner of the folder, last words."""

import json
import os
import subprocess

import pytest

from megatron_lmt.errors import CheckpointError, UserError
from megatron_lmt.runtime import incarnation, last_words
from megatron_lmt.runtime.incarnation import Incarnation, check_nobody_trains
from megatron_lmt.runtime.job_folder import check_starts, job_folder, record_start
from megatron_lmt.runtime.last_words import LastWords, summary, write


@pytest.fixture
def run_dir(tmp_path):
    job_folder(tmp_path).mkdir()
    return tmp_path


@pytest.fixture
def owned_by_another(run_dir, monkeypatch):
    """A run directory whose owner is a process on another machine."""
    monkeypatch.setattr(incarnation, "SILENCE_SECONDS", 1.5)
    Incarnation(run_dir)
    file = job_folder(run_dir) / incarnation.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "elsewhere", "slurm_job": "12"}))
    return run_dir


def test_starts_from_the_same_checkpoint_are_counted_and_progress_resets_the_count(run_dir):
    for iteration in (0, 0, 10, 10):
        check_starts(run_dir, iteration, most=2)
        record_start(run_dir, iteration)
    with pytest.raises(UserError, match=r"2 starts in a row ended before a checkpoint after iteration 10.*starts\.json"):
        check_starts(run_dir, 10, most=2)
    check_starts(run_dir, 20, most=2)


def test_a_living_process_of_this_machine_owns_its_run(run_dir, monkeypatch):
    owner = Incarnation(run_dir)
    seen = []
    monkeypatch.setattr(incarnation, "_is_renewed", lambda file: seen.append(file) or True)
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is training in this folder"):
        check_nobody_trains(run_dir)
    assert len(seen) == 1
    owner.end()
    check_nobody_trains(run_dir)


def test_a_process_of_this_machine_that_has_ended_owns_nothing(run_dir, monkeypatch):
    Incarnation(run_dir)
    with subprocess.Popen(["true"]) as gone:
        pass
    file = job_folder(run_dir) / incarnation.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "process": gone.pid}))
    monkeypatch.setattr(incarnation, "_is_renewed", lambda file: pytest.fail("there is nothing to wait for"))
    check_nobody_trains(run_dir)


def test_another_process_with_the_number_of_the_owner_owns_nothing(run_dir, monkeypatch):
    Incarnation(run_dir)
    file = job_folder(run_dir) / incarnation.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "process_started": 1.0}))
    monkeypatch.setattr(incarnation, "_is_renewed", lambda file: pytest.fail("there is nothing to wait for"))
    check_nobody_trains(run_dir)


def test_an_owner_elsewhere_is_believed_while_it_renews_its_file(owned_by_another):
    check_nobody_trains(owned_by_another)  # silent
    file = job_folder(owned_by_another) / incarnation.FILE
    with subprocess.Popen(["bash", "-c", f"while touch {file}; do sleep 0.2; done"]) as owner:
        try:
            with pytest.raises(UserError, match="on elsewhere, Slurm job 12 is training in this folder"):
                check_nobody_trains(owned_by_another)
        finally:
            owner.kill()


def test_an_owner_that_ends_while_it_is_looked_at(owned_by_another, monkeypatch):
    file = job_folder(owned_by_another) / incarnation.FILE
    monkeypatch.setattr(incarnation, "_has_ended", lambda owner: file.unlink())
    check_nobody_trains(owned_by_another)


def test_the_same_slurm_job_started_again_need_not_wait(owned_by_another, monkeypatch):
    monkeypatch.setattr(incarnation, "_is_renewed", lambda file: pytest.fail("there is nothing to wait for"))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    check_nobody_trains(owned_by_another)


def test_who_was_replaced_may_not_write(run_dir):
    old = Incarnation(run_dir)
    old.check()
    new = Incarnation(run_dir)
    for forbidden in (old.check, old.renew, old.end):
        with pytest.raises(CheckpointError, match="another start of this run has taken over"):
            forbidden()
    new.check()
    incarnation.forget(run_dir)
    with pytest.raises(CheckpointError, match="taken over"):
        new.check()


def words(rank, kind, where, time, text):
    return LastWords(rank, f"node{rank // 2 + 1}", kind, where, time, text)


def test_the_rank_that_failed_first_is_the_cause(run_dir):
    write(run_dir, words(0, "error", "iteration 7: data", 20.0, "Connection reset by peer"))
    write(run_dir, words(3, "error", "iteration 7: data", 10.0, "Traceback\nValueError: broken"))
    log = "srun: error: node2: task 3: Exited with exit code 1\nsrun: error: node1: tasks 0-1: Killed\n"
    lines = summary(run_dir, log)
    assert lines[0] == "rank 3 on node2 failed first (so did 1 others, later), in iteration 7: data:"
    assert lines[1:] == ["Traceback", "ValueError: broken"]
    last_words.forget(run_dir)
    assert summary(run_dir, "") == []


def test_a_rank_that_was_killed_is_named_by_srun(run_dir):
    write(run_dir, words(0, "error", "iteration 7: data", 20.0, "Connection reset by peer"))
    log = (
        "iteration 7\nsrun: error: node2: task 2: Segmentation fault\nsrun: error: node1: task 0: Exited with exit code 1\n"
    )
    assert summary(run_dir, log)[0].startswith("rank 2 on node2 ended first: Segmentation fault.")


def test_a_rank_that_was_killed_is_named_though_srun_tells_of_others_before(run_dir):
    for rank in (0, 1, 3):
        write(
            run_dir,
            words(rank, "error", "iteration 7: data", 20.0 + rank, "RuntimeError: Read error: Connection reset by peer"),
        )
    log = (
        "srun: error: node1: tasks 0-1: Exited with exit code 1\nsrun: launch/slurm: _step_signal: Terminating StepId=3.0\n"
        "srun: error: node2: task 2: Killed\nsrun: error: node2: task 3: Exited with exit code 1\n"
    )
    assert summary(run_dir, log)[0].startswith("rank 2 on node2 ended first: Killed.")


def test_ranks_of_a_hang_are_grouped_by_where_they_are(run_dir):
    for rank in (0, 1, 2):
        write(run_dir, words(rank, "hang", "iteration 7: forward and backward", 5.0 + rank, "File step.py"))
    write(run_dir, words(3, "hang", "unknown", 9.0, "no answer; process 4711 is stopped"))
    assert summary(run_dir, "") == [
        "the run hung; where each rank was, the fewest at one place first:",
        "",
        "rank 3 (node2): unknown",
        "no answer; process 4711 is stopped",
        "",
        "rank 0 (node1), 1 (node1), 2 (node2): iteration 7: forward and backward",
        "File step.py",
    ]
