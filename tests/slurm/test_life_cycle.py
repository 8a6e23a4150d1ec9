"""What happens to a training job, each with real jobs of the trainer on 2 nodes × 2 ranks."""

from pathlib import Path

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import metrics
from tests.slurm.jobs import submit

LONG = ("train.train_iters=300", "checkpoint.save_interval=100", "logging.log_interval=50", "logging.tensorboard=false")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens) -> Path:
    return make_run(tmp_path_factory.mktemp("jobs"), quickstart_tokenizer, tiny_tokens)


@pytest.fixture(scope="module")
def undisturbed(cluster, run_file) -> Path:
    """A run directory of a job that nothing happened to."""
    job = submit(cluster, run_file, *LONG, "output_dir=undisturbed")
    assert "the run is done" in job.wait_until_ended()
    return job.output_dir


def same_steps(run_dir: Path, undisturbed: Path) -> None:
    keys = ("iteration", "lm_loss", "grad_norm", "learning_rate", "data_fingerprint", "consumed_tokens")
    mine, theirs = ([[step[key] for key in keys] for step in metrics(folder)] for folder in (run_dir, undisturbed))
    assert mine == theirs
    assert (run_dir / "DONE").is_file()


def test_a_run_that_is_done_is_not_done_again(cluster, run_file, undisturbed):
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    job = submit(cluster, run_file, *LONG, "output_dir=undisturbed")
    assert "already reached its 300 iterations" in job.wait_until_ended()
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_warning_before_the_time_limit_saves_requeues_and_goes_on_from_that_step(cluster, run_file, undisturbed):
    job = submit(cluster, run_file, *LONG, "output_dir=warned")
    job.wait_for_iteration(110)
    job.cancel("--signal=USR1", "--batch")
    log = job.wait_until_ended()
    stopped = int(log.partition("stopped by a signal after saving iteration ")[2].split(";")[0])
    assert 110 <= stopped < 300
    assert f"resumed from {job.output_dir}/checkpoints/iter_{stopped:07d}" in log
    assert job.field("Restarts") == "1"
    same_steps(job.output_dir, undisturbed)


def test_a_node_that_loses_its_power_requeues_the_job_and_the_losses_are_the_same(cluster, run_file, undisturbed):
    job = submit(cluster, run_file, *LONG, "output_dir=power")
    job.wait_for_iteration(110)
    cluster.power_off(2)
    cluster.power_on(2)
    log = job.wait_until_ended()
    assert f"resumed from {job.output_dir}/checkpoints/iter_0000100" in log
    same_steps(job.output_dir, undisturbed)


def test_scancel_is_final(cluster, run_file):
    job = submit(cluster, run_file, *LONG, "output_dir=cancelled")
    job.wait_for_iteration(5)
    job.cancel()
    log = job.wait_until_ended("CANCELLED")
    assert "back to the queue" not in log
