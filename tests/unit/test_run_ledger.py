"""The plan against the ledger, from the files of a run directory."""

import json

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.errors import UserError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.preflight import check_run, resolved
from megatron_lmt.run_ledger import plan_against_ledger
from megatron_lmt.runtime.checkpoint_manifest import commit


def leave_run(run_file, iteration, *overrides):
    """A run directory with a checkpoint after so many of 20 steps of 8 samples, and the mixture that it came from."""
    ready = check_run(load_run(run_file, overrides), world_size=None)
    mixture = Mixture(ready.plan, ready.readers, ready.run.seed, ready.run.data.seq_length, ready.run.data.packing)
    for _ in range(8 * iteration):
        mixture.next_sample()
    folder = ready.run.output_dir / "checkpoints" / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    write_json_atomically(ready.run.output_dir / "resolved.json", resolved(ready))
    write_json_atomically(folder / "run_state.json", {"iteration": iteration, "data": mixture.state_dict()})
    commit(folder, {})
    return ready.run.output_dir, mixture


@pytest.fixture
def stopped_run(tiny_run):
    return leave_run(tiny_run, 3)


def cells(lines, name):
    return next(line.split() for line in lines if line.startswith(f"{name} "))


def test_the_newest_checkpoint_shows_what_was_drawn_so_far(stopped_run):
    run_dir, mixture = stopped_run
    lines = plan_against_ledger(run_dir)
    assert "iter_0000003: after 3 of 20 iterations, 24 samples" in lines[0]
    for row in mixture.ledger(mixture.state_dict()):
        planned = 24 / 6 if row["group"] == "mono" else 24 / 4
        deviation = f"{row['samples'] - planned:+.2f}"
        counts = [f"{row[unit]:,}" for unit in ("samples", "tokens", "documents")]
        expected = [f"{planned:.2f}", counts[0], deviation, counts[1], counts[2], f"{row['epochs']:.2f}"]
        assert cells(lines, row["source"])[1:] == expected
    assert cells(lines, "mono")[1:4] == ["12.00", "12", "+0.00"]


def test_at_the_end_the_ledger_of_the_run_is_shown(stopped_run):
    run_dir, mixture = stopped_run
    ledger = mixture.ledger(mixture.state_dict())
    ledger[0]["samples"] = 1000  # the table must show what is in the file
    write_json_atomically(run_dir / "ledger.json", ledger)
    lines = plan_against_ledger(run_dir)
    assert "ledger.json: after 20 of 20 iterations, 160 samples" in lines[0]
    assert cells(lines, ledger[0]["source"])[1:4] == ["26.67", "1,000", "+973.33"]


def test_folders_without_a_record(stopped_run, tmp_path):
    run_dir, _ = stopped_run
    (run_dir / "checkpoints/iter_0000003/COMMITTED.json").unlink()
    with pytest.raises(UserError, match="no complete checkpoint"):
        plan_against_ledger(run_dir)
    with pytest.raises(UserError, match="no resolved.json in it"):
        plan_against_ledger(tmp_path)


def test_the_plan_is_of_the_run_not_of_the_ledger(stopped_run):
    run_dir, _ = stopped_run
    plan = json.loads((run_dir / "resolved.json").read_text())
    plan["identity"]["phases"]["sample 0"]["mono/en"]["weight"] = 0.5
    write_json_atomically(run_dir / "resolved.json", plan)
    assert cells(plan_against_ledger(run_dir), "mono/en")[1] == "12.00"


def test_phases_are_planned_and_shown_one_by_one(tiny_run):
    second = "{start_iteration = 2, weights = {mono = 0, parallel = 1}}"
    third = "{start_iteration = 10, weights = {mono = 1, parallel = 0}}"
    run_dir, _ = leave_run(tiny_run, 5, f"data.phases=[{second}, {third}]")
    lines = plan_against_ledger(run_dir)
    assert cells(lines, "mono")[1:7] == ["8.00", "8", "+", "0", "=", "8"]
    assert cells(lines, "parallel")[1:8] == ["32.00", "8", "+", "24", "=", "32", "+0.00"]


def test_a_source_that_was_added_after_the_checkpoint(stopped_run, tiny_run):
    run_dir, _ = stopped_run
    plan = json.loads((run_dir / "resolved.json").read_text())
    plan["sources"].append({"name": "new", "group": "new", "prefix": "/new"})
    write_json_atomically(run_dir / "resolved.json", plan)
    lines = plan_against_ledger(run_dir)
    assert cells(lines, "mono")[1] == "12.00" and not any(line.startswith("new") for line in lines)
