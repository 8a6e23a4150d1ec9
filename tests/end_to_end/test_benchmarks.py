"""The benchmarks run, on a small size, and measure what they say. Nothing is said about how fast."""

import json
import sys

import numpy as np
import pytest

from benchmarks.synthetic_tokens import write_sources
from megatron_lmt.data.indexed import IndexedReader
from tests.conftest import REPOSITORY
from tests.end_to_end.processes import run


def test_synthetic_sources_are_what_both_sides_read(tmp_path):
    prefixes = [tmp_path / "a", tmp_path / "b"]
    tokens = write_sources(prefixes, 1000)
    readers = [IndexedReader(prefix) for prefix in prefixes]
    assert [reader.num_documents for reader in readers] == [500, 500]
    assert sum(reader.num_tokens for reader in readers) == tokens
    lengths = [reader.document_lengths(np.arange(500)) for reader in readers]
    assert 20 <= min(map(min, lengths)) and max(map(max, lengths)) <= 236
    assert not np.array_equal(*lengths)
    assert not readers[1].document(499).any() and len(readers[1].document(499)) == lengths[1][499]
    assert (tmp_path / "a.bin").stat().st_blocks == 0


def test_the_mixture_benchmark_measures_all_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    small = ("--documents", "30000", "--batches", "2", "--repeats", "1", "--global-batch-size", "64")
    where = ("--folder", str(tmp_path), "--output", str(tmp_path / "result.json"))
    output = run([sys.executable, "-m", "benchmarks.mixture", *small, *where])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["setting"]["sources"] == 294 and result["setting"]["drawn_samples"] == 192
    assert len(result["medians"]) == 4
    for name, values in result["medians"].items():
        assert f"| {name} | " in output
        assert values["first_batch_s"] > 0 and values["samples_per_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_fewer_documents_than_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    few = ("--documents", "100", "--folder", str(tmp_path))
    output = run([sys.executable, "-m", "benchmarks.mixture", *few], code=2)
    assert "--documents 100: give at least one to each of 294 sources" in output


def test_the_cleaning_benchmark_measures_rules_memory_and_languages(sample_data):
    for library in ("py3langid", "rensa"):
        pytest.importorskip(library, reason="needs the extra: pip install -e '.[clean]'")
    small = ("--data", str(sample_data), "--records", "2000", "--near-records", "2000", "--sentences", "20")
    output = run([sys.executable, "-m", "benchmarks.cleaning", *small])
    for said in (
        "language: ",
        "near_duplicates: ",
        "duplicates, 2,000 pairs",
        "FLORES dev, weighted: 0.0",
        "NTREX, 58 languages: 9",
    ):
        assert said in output


def test_the_checkpoint_benchmark_measures_both_ways_of_saving(tiny_run):
    small = ("train.train_iters=6", "checkpoint.save_interval=2", "logging.tensorboard=false")
    output = run([sys.executable, "-m", "benchmarks.checkpoint", str(tiny_run), *small])
    rows = [line.split("|")[1:-1] for line in output.splitlines() if line.startswith(("| waiting", "| in the background"))]
    assert [row[0].strip() for row in rows] == ["waiting", "in the background"]
    assert all(float(complete) >= float(still) for _, _, complete, still in rows)
    assert not list(tiny_run.parent.glob("checkpoint_benchmark.*"))
    output = run([sys.executable, "-m", "benchmarks.checkpoint", str(tiny_run), "train.train_iters=6"], code=2)
    assert "there is no save before the last one" in output


def test_the_step_benchmark_compares_the_same_model(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    small = ("--steps", "2", "--documents", "2", "--seq-length", "32", "--layers", "1")
    output = run([sys.executable, "-m", "benchmarks.train_step", *small, "--output", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["sides"]) == ["ours", "transformers", "transformers, fused AdamW"]
    assert all(side["ratio_cpu"] > 0 and f"| {name} | " in output for name, side in result["sides"].items())
    assert result["sides"]["transformers"]["ratio_wall"] == 1
    assert result["largest_loss_gap"] < 1e-5


def test_the_conversion_benchmark_measures_both_directions(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    where = ("--folder", str(tmp_path), "--output", str(tmp_path / "result.json"))
    output = run([sys.executable, "-m", "benchmarks.convert", "--sizes", "tiny", "--repeats", "1", *where])
    medians = json.loads((tmp_path / "result.json").read_text())["tiny"]["medians"]
    assert list(medians) == ["start of the converter", "copy", "hf → mcore", "mcore → hf"]
    assert "| tiny, mcore → hf | 0.00 | " in output and medians["mcore → hf"]["peak_mb"] > 20
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
