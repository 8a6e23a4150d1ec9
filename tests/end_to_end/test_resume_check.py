"""train.resume_check: the run itself finds out whether it can be resumed."""

import json

import pytest

from tests.conftest import REPOSITORY, make_run
from tests.end_to_end.processes import launch, same_result, train


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    return make_run(tmp_path_factory.mktemp("resume_check"), quickstart_tokenizer, tiny_tokens)


def report(run_dir):
    return json.loads((run_dir / "resume_check.json").read_text())


# what is due at iteration 6, in the middle of the test, is not saved
@pytest.mark.parametrize(("processes", "interval", "saved"), [(1, 10, [4, 10, 12]), (2, 6, [4, 12])])
def test_fresh_processes_take_the_same_steps(run_file, processes, interval, saved):
    plain, checked = run_file.parent / f"plain{processes}", run_file.parent / f"checked{processes}"
    overrides = (f"checkpoint.save_interval={interval}", "checkpoint.async_save=true", "train.train_iters=12")
    train(run_file, processes, f"output_dir={plain}", *overrides)
    output = train(run_file, processes, f"output_dir={checked}", "train.resume_check=4", *overrides)
    assert f"resumed from {checked}/checkpoints/iter_0000004" in output
    assert "resume check passed: iterations 5, 6, 7 are bit-equal in a fresh process" in output
    found = report(checked)
    assert found["passed"] and found["before"] == found["after"] and list(found["before"]) == ["5", "6", "7"]
    assert json.loads((checked / "run_card.json").read_text())["resume_check"] == found
    same_result(checked, plain)
    assert sorted(int(path.name[5:]) for path in (checked / "checkpoints").iterdir()) == saved


def test_a_checkpoint_that_is_asked_for_in_the_middle_of_the_test_comes_after_it(run_file):
    run_dir = run_file.parent / "asked"
    command = (str(REPOSITORY / "tests/end_to_end/asked_to_save.py"), str(run_file), f"output_dir={run_dir}")
    output = launch(1, *command, "train.resume_check=4", "train.train_iters=12", "checkpoint.save_interval=12")
    assert "resume check passed: iterations 5, 6, 7 are bit-equal in a fresh process" in output
    assert sorted(int(path.name[5:]) for path in (run_dir / "checkpoints").iterdir()) == [4, 7, 12]
    assert not (run_dir / "SAVE").exists()


def test_a_resume_that_loses_something_ends_the_run(run_file):
    run_dir = run_file.parent / "forgetful"
    command = (str(REPOSITORY / "tests/end_to_end/forgetful.py"), str(run_file), f"output_dir={run_dir}")
    output = launch(1, *command, "train.resume_check=4", code=2)
    assert "error: resume check: iterations 5, 6, 7 after the checkpoint of iteration 4 differ by up to " in output
    found = report(run_dir)
    assert not found["passed"] and found["largest_relative_difference"] > 0.01
    assert found["before"]["5"]["lm_loss"] == found["after"]["5"]["lm_loss"]  # weights alone would not have shown it
    assert "differ by up to" in launch(1, *command, "train.resume_check=4", code=2)  # nor does it go on when started again


def test_the_check_needs_iterations_after_it(run_file):
    output = train(run_file, 1, "train.resume_check=18", code=2)
    assert "train.resume_check = 18: it takes three iterations more, and the run ends at iteration 20" in output
