"""The scripts around training, as jobs: tokens, export, and what they say when something is missing."""

import json
import shutil

import pytest

from tests.conftest import make_run
from tests.end_to_end.processes import train
from tests.slurm.cluster import wait_for
from tests.slurm.jobs import submit

ONE_NODE = ("--nodes=1", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=1G")


@pytest.fixture
def run_file(tmp_path, quickstart_tokenizer, tiny_tokens):
    return make_run(tmp_path, quickstart_tokenizer, tiny_tokens)


def test_an_array_job_makes_the_token_files_that_the_run_names(cluster, run_file, tiny_tokens):
    text = run_file.parent / "text"
    text.mkdir()
    for source in sorted(tiny_tokens.parent.glob("text/*.jsonl"))[:3]:
        shutil.copyfile(source, text / source.name)
    (run_file.parent / "tokens").unlink()
    submit(cluster, run_file, str(text), "--append-eod", options=(*ONE_NODE, "--array=0-3"), script="preprocess.sh")
    wait_for(lambda: not cluster.command("squeue", "-h").stdout, "all array tasks")
    logs = "".join(log.read_text() for log in run_file.parent.glob("slurm-*.log"))
    names = {file.stem for file in text.iterdir()}
    made = {file.name: json.loads(file.read_text()) for file in run_file.parent.glob("tokens/*.manifest.json")}
    assert set(made) == {f"{name}_text_document.manifest.json" for name in names}, logs
    for name, manifest in made.items():
        assert manifest["xxh128"] == json.loads((tiny_tokens / name).read_text())["xxh128"]
    assert "task 0 of 4" in logs and "task 3 of 4" in logs
    assert logs.count("\n1 sources") == 3 and logs.count("\n0 sources") == 1  # three sources, four tasks


def test_a_run_is_exported_and_evaluated_in_its_own_folder(cluster, run_file):
    train(run_file, 1, "train.train_iters=2")
    submit(cluster, run_file, options=ONE_NODE, script="convert.sh").wait_until_ended()
    assert (run_file.parent / "run/hf_model/config.json").is_file()
    test_set = run_file.parent / "test_set"
    test_set.mkdir()
    for language in ("en", "zh"):
        (test_set / f"{language}.txt").write_text("1 2 3\n4 5\n")
    decoding = ("--directions", "en-zh", "--num-beams", "1", "--max-new-tokens", "4")
    job = submit(cluster, run_file, "--test-set", str(test_set), *decoding, options=ONE_NODE, script="evaluate.sh")
    assert "hf_model on " in job.wait_until_ended()
    assert any((run_file.parent / "run/evaluation").iterdir())


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("cpt.sh", ["data.seq_len=5"], "run.toml: data.seq_len: "),
        ("preprocess.sh", ["nowhere"], "no such folder: nowhere"),
        ("convert.sh", [], "no checkpoints here; train first"),
        ("evaluate.sh", ["--test-set", "x"], "export the run first: sbatch slurm/convert.sh"),
    ],
)
def test_what_is_missing_is_said_first(cluster, run_file, script, arguments, message):
    options = () if script == "cpt.sh" else ONE_NODE
    array = ("--array=0",) if script == "preprocess.sh" else ()
    job = submit(cluster, run_file, *arguments, options=(*options, *array), script=script)
    assert message in job.wait_until_ended("FAILED")


def test_the_doctor_examines_all_nodes(cluster, run_file):
    job = submit(cluster, run_file, script="doctor.sh")
    log = job.wait_until_ended()
    assert "4 processes met" in log and "gloo all-reduce over 4 processes" in log
    assert "\nnode1:\nok " in log and "\nnode2:\nok " in log and log.rstrip().endswith("all is well")
