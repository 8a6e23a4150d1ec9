"""What happens to a training job, each with real jobs of the trainer on 2 nodes.

One rank on each is enough for that and starts in half the time; `test_failures.py` and `test_scripts.py` have two on each.
"""

from pathlib import Path

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import metrics
from tests.slurm.cluster import wait_for
from tests.slurm.jobs import submit, submit_chain

LONG = (
    "train.train_iters=150",
    "checkpoint.save_interval=50",
    "validation.eval_interval=150",
    "logging.log_interval=50",
    "logging.tensorboard=false",
)
ONE_RANK = ("--gpus-per-node=1",)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens) -> Path:
    return make_run(tmp_path_factory.mktemp("jobs"), quickstart_tokenizer, tiny_tokens)


@pytest.fixture(scope="module")
def undisturbed(cluster, run_file) -> Path:
    """A run directory of a job that nothing happened to."""
    job = submit(cluster, run_file, *LONG, "output_dir=undisturbed", options=ONE_RANK)
    assert "the run is done" in job.wait_until_ended()
    return job.output_dir


def same_steps(run_dir: Path, undisturbed: Path) -> None:
    keys = ("iteration", "lm_loss", "grad_norm", "learning_rate", "data_fingerprint", "consumed_tokens")
    mine, theirs = ([[step[key] for key in keys] for step in metrics(folder)] for folder in (run_dir, undisturbed))
    assert mine == theirs
    assert (run_dir / "DONE").is_file()


def test_a_run_that_is_done_is_not_done_again(cluster, run_file, undisturbed):
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    job = submit(cluster, run_file, *LONG, "output_dir=undisturbed", options=ONE_RANK)
    assert "already reached its 150 iterations" in job.wait_until_ended()
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_warning_before_the_time_limit_saves_requeues_and_goes_on_from_that_step(cluster, run_file, undisturbed):
    job = submit(cluster, run_file, *LONG, "output_dir=warned", options=ONE_RANK)
    job.wait_for_iteration(60)
    job.cancel("--signal=USR1", "--batch")
    log = job.wait_until_ended()
    stopped = int(log.partition("stopped by a signal after saving iteration ")[2].split(";")[0])
    assert 60 <= stopped < 150
    assert f"resumed from {job.output_dir}/checkpoints/iter_{stopped:07d}" in log
    assert job.field("Restarts") == "1"
    same_steps(job.output_dir, undisturbed)


def test_a_node_that_loses_its_power_requeues_the_job_and_the_losses_are_the_same(cluster, run_file, undisturbed):
    job = submit(cluster, run_file, *LONG, "output_dir=power", options=ONE_RANK)
    job.wait_for_iteration(60)
    cluster.power_off(2)
    wait_for(lambda: job.state == "PENDING", "Slurm to give up the node and take the job back")
    cluster.power_on(2)
    log = job.wait_until_ended()
    assert f"resumed from {job.output_dir}/checkpoints/iter_0000050" in log
    same_steps(job.output_dir, undisturbed)


def test_a_preempted_job_saves_goes_back_to_the_queue_and_goes_on(cluster, run_file, undisturbed):
    job = submit(cluster, run_file, *LONG, "output_dir=preempted", options=ONE_RANK)
    job.wait_for_iteration(20)
    urgent = ("sbatch", "--parsable", "-p", "high", "--nodes=2", "--exclusive", f"--output={run_file.parent}/urgent.log")
    cluster.command(*urgent, "--wrap", "true", cwd=run_file.parent)
    log = job.wait_until_ended()
    stopped = int(log.partition("stopped by a signal after saving iteration ")[2].split(";")[0])
    assert f"resumed from {job.output_dir}/checkpoints/iter_{stopped:07d}" in log
    same_steps(job.output_dir, undisturbed)


def test_scancel_is_final_and_the_chained_job_goes_on_where_the_first_stopped(cluster, run_file, undisturbed):
    first, second = submit_chain(cluster, run_file, *LONG, "output_dir=chain", options=ONE_RANK, jobs=2)
    first.wait_for_iteration(20)
    assert second.state == "PENDING"
    first.cancel()
    log = first.wait_until_ended("CANCELLED")
    assert "back to the queue" not in log
    log = second.wait_until_ended()
    assert "resumed from" in log and "goes on from here" not in log
    assert first.state == "CANCELLED"
    same_steps(second.output_dir, undisturbed)


def test_files_ask_for_a_checkpoint_and_for_the_end(cluster, run_file):
    endless = (*LONG, "train.train_iters=100000", "output_dir=asked", "checkpoint.save_interval=50000")
    job = submit(cluster, run_file, *endless, script="sft.sh", options=ONE_RANK)
    job.wait_for_iteration(1)
    save, leave = job.output_dir / "SAVE", job.output_dir / "EXIT"
    save.touch()
    wait_for(lambda: not save.exists(), "the checkpoint that was asked for")
    (first,) = (job.output_dir / "checkpoints").glob("iter_*/COMMITTED.json")
    done = int(first.parent.name.removeprefix("iter_"))
    job.wait_for_iteration(done + 1)
    leave.touch()
    assert "ended by the file EXIT after saving iteration" in job.wait_until_ended()
    assert not (job.output_dir / "DONE").exists()
    again = submit(cluster, run_file, *endless, options=ONE_RANK)
    assert "EXIT is there, so nothing is trained; remove it to go on" in again.wait_until_ended()
