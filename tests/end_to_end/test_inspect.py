"""tools/inspect_data.py as a user calls it, on a short real run."""

import json

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import metrics, tool, train


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A run that was trained for its 20 steps."""
    run_file = make_run(tmp_path_factory.mktemp("inspect"), quickstart_tokenizer, tiny_tokens)
    train(run_file, 1)
    return run_file


@pytest.mark.parametrize("iteration", [1, 10, 11, 20])
def test_a_step_has_the_fingerprint_of_the_run(run_file, iteration):
    output = tool("inspect_data.py", "step", run_file, str(iteration))
    fingerprint = metrics(run_file.parent / "run")[iteration - 1]["data_fingerprint"]
    assert f"data fingerprint after step {iteration}: {fingerprint} (as in metrics.jsonl)" in output
    assert output.count("\nsample ") == 8


def test_a_sample_in_a_new_folder_is_the_same_without_metrics(run_file):
    known = tool("inspect_data.py", "sample", run_file, "100")
    new = tool("inspect_data.py", "sample", run_file, "100", f"output_dir={run_file.parent / 'absent'}")
    assert known.startswith("sample 100, in step 13\nsource ")
    assert known.replace("as in metrics.jsonl", "metrics.jsonl does not have this step") == new


def test_the_ledger_of_the_run(run_file):
    output = tool("inspect_data.py", "ledger", run_file.parent / "run")
    assert "after 20 of 20 iterations, 160 samples" in output
    for row in json.loads((run_file.parent / "run/ledger.json").read_text()):
        assert f"{row['tokens']:,}" in output


def test_documents(run_file, quickstart_tokenizer, tiny_tokenizer):
    prefix = run_file.parent / "tokens/mono.en_text_document"
    output = tool("inspect_data.py", "document", prefix, "0", "--tokenizer-model", quickstart_tokenizer)
    assert output.startswith(f"document 0 of {prefix}: ") and "<|endoftext|>" in output
    look = ("inspect_data.py", "look", prefix, "--count", "3", "--tokenizer-model")
    shown, again = tool(*look, quickstart_tokenizer), tool(*look, quickstart_tokenizer)
    assert shown == again and shown.count(f" of {prefix}: ") == 3
    look = ("inspect_data.py", "look", f"{prefix}.idx", "--count", "3", "--tokenizer-model")  # as a shell completes it
    assert shown != tool(*look, quickstart_tokenizer, "--seed", "1")
    assert "was made with tokenizer" in tool(*look, tiny_tokenizer, code=2)
    assert "sample 160: the run has samples 0 to 159" in tool("inspect_data.py", "sample", run_file, "160", code=2)
