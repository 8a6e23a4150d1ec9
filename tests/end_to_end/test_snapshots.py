"""Translation of a fixed slice beside the training: its results, also of a run that is stopped and goes on."""

import json
import signal
import subprocess

import pytest

from tests.conftest import QUICKSTART
from tests.end_to_end.processes import environment, train, training_command

pytest.importorskip("py3langid", reason="evaluation needs the extra [eval]")
pytest.importorskip("sacrebleu", reason="evaluation needs the extra [eval]")

EVALUATION = """
[evaluation]
eval_interval = {interval}
test_set = "test_set"
directions = ["es-en", "en-es", "es-zh", "en-zh"]
max_sentences = 2
max_new_tokens = 6
"""


@pytest.fixture
def run_file(tiny_run):
    folder = tiny_run.parent / "test_set"
    folder.mkdir()
    for code in ("es", "en", "zh"):
        (folder / f"{code}.txt").write_bytes((QUICKSTART / "corpus" / f"{code}.txt").read_bytes())
    tiny_run.write_text(tiny_run.read_text() + EVALUATION.format(interval=10))
    return tiny_run


def records(run):
    return [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]


def test_results_of_a_run_that_is_stopped_and_goes_on(run_file):
    run = run_file.parent / "run"
    command = training_command(run_file, 1, "checkpoint.keep_last=1")
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            if "iter_0000010 in" in line:  # the first checkpoint, whose evaluation has begun
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    train(run_file, 2, "checkpoint.keep_last=1")
    assert (run / "DONE").is_file()
    found = records(run)
    assert [record["iteration"] for record in found][-1] == 20
    directions = ("es-en", "en-es", "es-zh", "en-zh")
    for record in found:
        assert {f"{m}/{d}" for m in ("chrf++", "off_target_rate", "empty_rate") for d in directions} <= record.keys()
        assert record["chrf++/x-zh"] == pytest.approx((record["chrf++/es-zh"] + record["chrf++/en-zh"]) / 2)
    output = run / "snapshots" / "iter_0000020"
    assert sorted(file.name for file in (output / "translations").iterdir()) == sorted(f"{d}.txt" for d in directions)
    assert not (output / "model").exists() and not (output / "checkpoint").exists()
    assert "evaluation at iteration 20 | chrf++/en-x" in (run / "train.log").read_text()
    (run / "DONE").unlink()
    train(run_file, 1, "checkpoint.keep_last=1")  # the result of its newest checkpoint was collected
    assert records(run) == found


def test_an_evaluation_that_fails_leaves_the_training_alone(run_file):
    output = train(run_file, 1, 'evaluation.launcher=["false"]')
    assert "evaluation of iteration 20 failed with exit code 1, see" in output
    assert (run_file.parent / "run" / "DONE").is_file() and records(run_file.parent / "run") == []


def test_what_cannot_be_evaluated_is_told_before_the_run(run_file):
    run_file.write_text(run_file.read_text().replace("eval_interval = 10\ntest_set", "eval_interval = 15\ntest_set"))
    assert "eval_interval = 15 is no multiple of checkpoint.save_interval = 10" in _refused(run_file)
    assert "no command 'sruhn' here" in _refused(run_file, "evaluation.eval_interval=20", 'evaluation.launcher=["sruhn"]')
    (run_file.parent / "test_set" / "zh.txt").unlink()
    output = _refused(run_file, "evaluation.eval_interval=20", "evaluation.directions=['en-zh','en-xx']")
    assert "'xx'" in output and "no file of zh" in output


def _refused(run_file, *overrides):
    return train(run_file, 1, *overrides, code=2)
