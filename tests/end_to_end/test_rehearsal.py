"""A run file rehearsed on this machine by the batch script itself."""

import os
import sys

from megatron_lmt.config import load_run
from megatron_lmt.rehearsal.tiny_run import toml_value, write_tiny_run
from megatron_lmt.toml_config import parse_value
from tests.conftest import REPOSITORY
from tests.end_to_end.processes import run


def test_the_batch_script_outside_of_slurm_plays_the_life_of_the_run(tiny_run, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    refused = run(["bash", str(REPOSITORY / "slurm/sft.sh"), str(tiny_run), "data.seq_len=5"], code=2)
    assert "data.seq_len: " in refused
    refused = run(["bash", str(REPOSITORY / "slurm/cpt.sh"), str(tiny_run), "--gpus", "24"], code=2)
    assert "--gpus 24, those of the real job: train.global_batch_size = 8 is not a multiple" in refused
    output = run(["bash", str(REPOSITORY / "slurm/cpt.sh"), "--local", str(tiny_run), "--gpus", "4"], timeout=600)
    proved, _, estimated = output.partition("the real job:")
    assert "samples in its order (fingerprint " in proved
    assert "after a kill -9" in proved and "digit for digit" in proved
    assert "the exported model generated text" in proved
    assert "parameters: 78,208" in estimated and "steps: 20; tokens: at most 10,240" in estimated
    assert "GPUs: 4" in estimated and "GPU-hours: about" in estimated and "checkpoints: about" in estimated
    assert not (tiny_run.parent / "run").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith("rehearsal-")]


def test_the_tiny_run_keeps_what_decides_the_data(tiny_run, tmp_path):
    phases = "data.phases=[{start_iteration=5, weights={mono=1, parallel=3}}]"
    real = load_run(tiny_run, ["parallel.tensor_model_parallel_size=4", "parallel.sequence_parallel=true", phases])
    (tmp_path / "tiny").mkdir()
    file, batch = write_tiny_run(real, tmp_path / "tiny")
    tiny = load_run(file)
    assert (tiny.seed, tiny.data.seq_length, tiny.data.packing) == (real.seed, real.data.seq_length, real.data.packing)
    assert tiny.data.mixture == real.data.mixture
    assert batch == tiny.train.global_batch_size == 4
    assert tiny.data.phases[0].start_iteration * batch == 5 * real.train.global_batch_size
    assert (tiny.parallel.tensor_model_parallel_size, tiny.parallel.sequence_parallel) == (2, True)


def test_values_are_written_as_toml():
    for value in ('say "hi" \\ é', 1e-05, True, 3, [1, "a"]):
        assert parse_value(toml_value(value)) == value
    assert parse_value(toml_value({"a b": [{"c": False}]})) == {"a b": [{"c": False}]}
