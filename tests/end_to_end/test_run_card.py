"""The run card says what a run was, and starts it again."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch

from megatron_lmt.config import load_run
from tests.conftest import REPOSITORY, make_run
from tests.end_to_end.processes import curve, launch, metrics, run, train
from tests.end_to_end.test_convert import make_hf_model


@pytest.fixture(scope="module")
def done(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("card")
    run_file = make_run(folder, quickstart_tokenizer, tiny_tokens)
    train(run_file, 1, "seed=11", "train.train_iters=12")
    return folder / "run"


def read(run_dir):
    return json.loads((run_dir / "run_card.json").read_text())


def again(card, processes, *arguments, code=0):
    return launch(processes, "-m", "megatron_lmt.train", "--from-card", str(card), *arguments, code=code)


def test_it_says_what_the_run_was(done):
    card, last = read(done), metrics(done)[-1]
    assert card["run"] == load_run(done.parent / "run.toml", ["seed=11", "train.train_iters=12"]).model_dump(mode="json")
    assert card["run_file"]["text"] == (done.parent / "run.toml").read_text()
    assert card["run_file"]["overrides"] == ["seed=11", "train.train_iters=12"]
    manifest = done.parent / "tokens" / "mono.zh_text_document.manifest.json"
    assert card["manifests"]["training"]["mono/zh"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert set(card["manifests"]["validation"]) == {"zh"}
    (start,) = card["starts"]
    head = subprocess.run(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert start["code"]["commit"] == (head.stdout.strip() or None)
    assert start["versions"]["megatron-core"].startswith("0.16") and start["processes"] == 1
    result = card["result"]
    assert result["is_done"] and result["iteration"] == 12
    assert result["lm_loss"] == last["lm_loss"] and result["data_fingerprint"] == last["data_fingerprint"]
    assert result["losses"].keys() >= {"loss/mono", "loss/parallel"}
    assert result["validation"]["iteration"] == 12 and result["validation"]["validation_loss/zh"] > 0
    assert result["ledger"] == json.loads((done / "ledger.json").read_text())
    text = (done / "run_card.md").read_text()
    assert (
        f"{result['data_fingerprint']}" in text and f"| lm_loss | {last['lm_loss']:.4f} |" in text and "--from-card" in text
    )


def test_the_same_run_again_comes_to_the_same(done):
    output = again(done / "run_card.json", 1, "output_dir=again")  # from the folder of the run file, as always
    assert curve(done.parent / "again") == curve(done)
    for key in ("data_fingerprint", "lm_loss", "validation"):
        assert f"as on the card: {key} = " in output
    assert (done.parent / "again" / "run.toml").read_text() == (done / "run.toml").read_text()
    assert read(done.parent / "again")["run_file"]["overrides"][-1] == "output_dir=again"


def test_another_layout_may_be_used_and_is_compared(done):
    wide = ("parallel.tensor_model_parallel_size=2", "--dry-run")
    assert "12 iterations of 8 samples" in again(done / "run_card.json", 1, f"output_dir={done.parent}/wide", *wide)


def test_a_run_that_would_be_another_is_refused(done, tmp_path):
    target = f"output_dir={tmp_path}/other"
    output = again(done / "run_card.json", 1, target, "seed=12", "optimizer.lr=1e-5", code=2)
    assert "error: not the run of the card: seed = 11 before, 12 now" in output
    assert "error: not the run of the card: optimizer.lr = 0.003 before, 1e-05 now" in output
    assert not (tmp_path / "other").exists()
    (tmp_path / "bad.json").write_text("{}")
    assert "bad.json: not a run card (KeyError('run'))" in again(tmp_path / "bad.json", 1, code=2)
    assert "with --from-card" in run([sys.executable, "-m", "megatron_lmt.train"], code=2)


def test_other_code_and_versions_are_named(done, tmp_path):
    card = read(done)
    card["starts"][-1]["versions"]["torch"] = "1.0"
    card["starts"][-1]["code"] = {"commit": "0123", "dirty": False}
    card["starts"].insert(0, {**card["starts"][-1], "versions": {"torch": "0.9"}})  # an earlier start says nothing
    (tmp_path / "card.json").write_text(json.dumps(card))
    output = again(tmp_path / "card.json", 1, f"output_dir={tmp_path}/new", "--dry-run")
    assert "not as on the card: code.commit = 0123 before, " in output
    assert "not as on the card: versions.torch = 1.0 before, " in output


def test_start_weights_are_known_by_their_content(tmp_path, quickstart_tokenizer, tiny_tokens):
    run_file = make_run(tmp_path, quickstart_tokenizer, tiny_tokens)
    qwen3 = make_hf_model(tmp_path / "hf", quickstart_tokenizer)
    train(run_file, 1, "model.pretrained_checkpoint=hf", "train.train_iters=2", "output_dir=first")
    card = tmp_path / "first" / "run_card.json"
    known = read(tmp_path / "first")["start_weights"]
    assert known["path"] == str(tmp_path / "hf") and known["sha256"] in card.with_suffix(".md").read_text()

    def start(weights, code=0):
        return again(card, 1, "output_dir=again", f"model.pretrained_checkpoint={weights}", "--dry-run", code=code)

    qwen3.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list(tmp_path.glob("shards/*.safetensors"))) > 2
    start("shards")
    checkpoint = "first/checkpoints/iter_0000002"
    assert f"not the run of the card: start_weights = {known['sha256']} before, " in start(checkpoint, code=2)
    with torch.no_grad():
        qwen3.model.layers[2].mlp.up_proj.weight += 1e-3
    qwen3.save_pretrained(tmp_path / "trained")
    assert f"not the run of the card: start_weights = {known['sha256']} before, " in start("trained", code=2)


def test_a_start_from_a_checkpoint_is_known_by_its_manifest(done):
    train(done.parent / "run.toml", 1, f"model.pretrained_checkpoint={done}", "train.train_iters=1", "output_dir=next")
    manifest = done / "checkpoints/iter_0000012/COMMITTED.json"
    assert read(done.parent / "next")["start_weights"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert read(done)["start_weights"] is None
