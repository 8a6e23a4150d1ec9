"""Two starts of one run, as real processes: only one of them trains and writes."""

import json
import signal

import psutil
import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import run, training_command
from tests.end_to_end.test_resume import iterations_done, start, wait_for

ENDLESS = ("train.train_iters=100000", "checkpoint.save_interval=50000", "validation.eval_interval=100000")


@pytest.fixture
def run_file(tmp_path, quickstart_tokenizer, tiny_tokens):
    return make_run(tmp_path, quickstart_tokenizer, tiny_tokens)


def test_a_second_start_is_refused_and_workers_end_with_their_launcher(run_file):
    run_dir = run_file.parent / "run"
    launcher = start(run_file, 2, *ENDLESS)
    wait_for(lambda: iterations_done(run_dir) >= 2)
    output = run(training_command(run_file, 1, *ENDLESS), code=2)
    owner = json.loads((run_dir / "job/incarnation.json").read_text())
    assert f"process {owner['process']} on {owner['host']} is training in this folder" in output
    workers = psutil.Process(launcher.pid).children()
    assert owner["process"] in {worker.pid for worker in workers} and len(workers) == 2
    launcher.kill()
    launcher.communicate()
    # they are gone, or zombies where the first process of the machine reaps none
    wait_for(lambda: all(not w.is_running() or w.status() == psutil.STATUS_ZOMBIE for w in workers))


def test_a_start_that_was_replaced_publishes_no_checkpoint(run_file):
    run_dir = run_file.parent / "run"
    process = start(run_file, 1, *ENDLESS)
    wait_for(lambda: iterations_done(run_dir) >= 2)
    owner = run_dir / "job/incarnation.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "id": "another start"}))
    process.send_signal(signal.SIGUSR1)  # asks for a checkpoint
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 2 and "another start of this run has taken over" in output
    assert not list(run_dir.glob("checkpoints/iter_*"))
    assert not (run_dir / "latest_checkpointed_iteration.txt").exists()
    assert json.loads(owner.read_text())["id"] == "another start"
