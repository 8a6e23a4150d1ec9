"""Steps drawn again: the samples and the fingerprint of the run, from its start or from a checkpoint."""

import json
import shutil
import subprocess
import sys

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.preflight import check_run, resolved
from megatron_lmt.replay import replay_step, step_of_sample
from megatron_lmt.runtime.checkpoint_manifest import commit


@pytest.fixture
def ready(tiny_run):
    return check_run(load_run(tiny_run), world_size=None)


def drawn_steps(ready, count):
    """Samples of the first steps, and the mixture's state after each."""
    mixture = Mixture(ready.plan, ready.readers, ready.run.seed, ready.run.data.seq_length, ready.run.data.packing)
    batch = ready.run.train.global_batch_size
    return [([mixture.next_sample() for _ in range(batch)], mixture.state_dict()) for _ in range(count)]


def leave_checkpoint(ready, iteration, state):
    """As the trainer does, without weights."""
    folder = ready.run.output_dir / "checkpoints" / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    write_json_atomically(ready.run.output_dir / "resolved.json", resolved(ready))
    write_json_atomically(folder / "run_state.json", {"iteration": iteration, "data": state})
    commit(folder, {})


def leave_metrics(ready, states):
    records = [{"iteration": i, "data_fingerprint": state["fingerprint"]} for i, state in enumerate(states, 1)]
    ready.run.output_dir.mkdir(exist_ok=True)
    (ready.run.output_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def contents(samples):
    return [(sample.source, sample.pieces.tolist()) for sample in samples]


def test_a_step_is_drawn_again_before_the_run_exists(ready):
    for iteration, (samples, state) in enumerate(drawn_steps(ready, 6), 1):
        step = replay_step(ready, iteration)
        assert (contents(step.samples), step.fingerprint) == (contents(samples), state["fingerprint"])
        assert step.first_sample == (iteration - 1) * 8 and not step.confirmed


def test_from_a_checkpoint_it_is_the_same_step(ready):
    steps = drawn_steps(ready, 6)
    for iteration in (2, 4):
        leave_checkpoint(ready, iteration, steps[iteration - 1][1])
    for iteration, (samples, state) in enumerate(steps, 1):
        step = replay_step(ready, iteration)
        assert (contents(step.samples), step.fingerprint) == (contents(samples), state["fingerprint"])


def test_the_newest_checkpoint_before_the_step_is_where_it_starts(ready):
    steps = drawn_steps(ready, 4)
    leave_checkpoint(ready, 1, {**steps[0][1], "fingerprint": "old"})
    leave_checkpoint(ready, 2, {**steps[1][1], "fingerprint": "new"})
    leave_checkpoint(ready, 3, {**steps[2][1], "fingerprint": "after"})
    expected = Mixture(ready.plan, ready.readers, ready.run.seed, ready.run.data.seq_length, ready.run.data.packing)
    expected.load_state_dict({**steps[1][1], "fingerprint": "new"})
    for _ in range(8):
        expected.next_sample()
    assert replay_step(ready, 3).fingerprint == expected.fingerprint


def test_metrics_confirm_a_step_or_refuse_it(ready):
    states = [state for _, state in drawn_steps(ready, 3)]
    leave_metrics(ready, states)
    assert replay_step(ready, 3).confirmed
    assert not replay_step(ready, 4).confirmed
    leave_metrics(ready, [states[0], {"fingerprint": "f" * 16}])
    with pytest.raises(DataError, match=f"after it is {states[1]['fingerprint']}, but .*metrics.jsonl has ffffffffffffffff"):
        replay_step(ready, 2)


def test_steps_and_samples_the_run_does_not_have(ready):
    assert [step_of_sample(ready, number) for number in (0, 7, 8, 159)] == [1, 1, 2, 20]
    for number in (-1, 160):
        with pytest.raises(ConfigError, match=f"sample {number}: the run has samples 0 to 159"):
            step_of_sample(ready, number)
    for iteration in (0, 21):
        with pytest.raises(ConfigError, match=f"step {iteration}: the run has steps 1 to 20"):
            replay_step(ready, iteration)


def test_a_run_directory_of_another_run_is_refused(ready, tiny_run):
    leave_checkpoint(ready, 1, drawn_steps(ready, 1)[0][1])
    with pytest.raises(ConfigError, match="seed = 7 before, 8 now"):
        check_run(load_run(tiny_run, ["seed=8"]), world_size=None)
    shutil.rmtree(ready.run.output_dir)
    assert check_run(load_run(tiny_run, ["seed=8"]), world_size=None)


def test_looking_at_data_does_not_import_torch():
    code = "import sys, megatron_lmt.replay, megatron_lmt.run_ledger, megatron_lmt.data.show; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
