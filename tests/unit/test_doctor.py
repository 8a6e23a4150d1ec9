"""The doctor's findings, and the estimate they rest on."""

import json

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.doctor import node
from megatron_lmt.doctor.job import compare
from megatron_lmt.doctor.node import Finding, examine, facts
from megatron_lmt.estimate import estimate
from megatron_lmt.model.shape import read_shape
from megatron_lmt.preflight import check_run
from tests.conftest import REPOSITORY


def test_a_good_node_has_nothing_to_mend_and_keeps_nothing(tiny_run):
    before = sorted(tiny_run.parent.iterdir())
    ready = check_run(load_run(tiny_run), 1)
    assert [finding for finding in examine(ready, 1) if finding.fix] == []
    assert sorted(tiny_run.parent.iterdir()) == before


def test_what_is_too_small_says_what_to_do(tiny_run, monkeypatch):
    ready = check_run(load_run(tiny_run), 1)
    monkeypatch.setattr(node, "MAPS_OF_LIBRARIES", 10**9)
    monkeypatch.setattr(node, "SLOW_CHECKPOINT_SECONDS", 0)
    fixes = [finding.fix for finding in examine(ready, 1) if finding.fix]
    assert any("sysctl -w vm.max_map_count=" in fix for fix in fixes)
    assert any("is slow; name another output_dir" in fix for fix in fixes)


def test_a_disk_that_does_not_grant_a_checkpoint_is_found(tmp_path):
    with open(tmp_path / "probe", "wb") as probe:
        finding = node._reserve(probe.fileno(), 1 << 60, tmp_path)
    assert finding.fix and "refuses it" in finding.fix


def test_nodes_with_other_data_or_versions_are_named(tiny_run):
    known = facts(check_run(load_run(tiny_run), 1))
    assert [finding.fix for finding in compare([("node1", known), ("node2", known)]) if finding.fix] == []
    other = {**known, "torch": "1.0", "manifests of the data": "0" * 16}
    odd = [str(finding) for finding in compare([("node1", known), ("node2", known), ("node3", other)]) if finding.fix]
    assert len(odd) == 2
    assert f"torch differs: {known['torch']} on node1 node2; 1.0 on node3; make it the same" in odd[0]


def test_findings_say_ok_or_mend():
    assert str(Finding("disk")) == "ok    disk"
    assert str(Finding("disk", "make room")) == "MEND  disk: make room"


@pytest.fixture
def lmt_4b(tmp_path):
    """The released run of Qwen3-4B and its shape; numbers of Qwen/Qwen3-4B-Base's config.json."""
    sizes = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "model_type": "qwen3", "rope_theta": 1e6}))
    run = load_run(REPOSITORY / "examples/lmt60/qwen3_4b_cpt_8xh100.toml", [f"output_dir={tmp_path}"])
    return run, read_shape(tmp_path)


def test_the_estimate_of_lmt_4b_agrees_with_numbers_worked_out_by_hand(lmt_4b):
    estimated = estimate(*lmt_4b, world_size=64)
    assert estimated.num_parameters == 4_022_468_096  # as Hugging Face counts them
    assert estimated.data_parallel_size * lmt_4b[0].parallel.model_parallel_size == 64
    assert estimated.train_iters == 28_611  # 90B tokens in batches of 1,536 × 2,048
    # 6 · 4.02e9 · 90e9 / 400e12 / 3600
    assert estimated.gpu_hours == pytest.approx(1509, rel=0.01)
    assert estimated.space.checkpoint_bytes == 4_022_468_096 * 14
