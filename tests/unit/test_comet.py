"""COMET in its own Python, with a tiny regression model that is loaded as the large ones are."""

import json
import sys
from pathlib import Path

import pytest

from megatron_lmt.errors import ConfigError, UserError
from megatron_lmt.eval import comet
from megatron_lmt.eval.comet import Comet

SEGMENTS = [
    {"src": "The house.", "mt": "Das Haus.", "ref": "Das Haus."},
    {"src": "The house.", "mt": "", "ref": "Das Haus."},
    {"src": "水\u2028和面包", "mt": "ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ", "ref": "ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ"},
    {"src": "The house.", "mt": "Das Haus und sein Dach.", "ref": "Das Haus."},
    {"src": "The house.", "mt": "水和面包", "ref": "Das Haus."},
]


def test_scores_are_the_models_and_a_stopped_worker_goes_on(tmp_path, tiny_comet, comet_python, monkeypatch):
    monkeypatch.setattr(comet, "SEGMENTS_IN_A_CHUNK", 2)
    metric = Comet(tiny_comet, comet_python)
    metric.check()
    expected, record = metric.score(SEGMENTS, tmp_path)
    assert len(expected) == 5
    assert expected[0] == expected[2] == 1 and all(0 < expected[i] < 1 for i in (1, 3, 4))
    assert expected[3] == max(expected[1], *expected[3:])  # the nearest one
    assert (record["class"], record["precision"]) == ("RegressionMetric", "float32")
    assert record["versions"]["unbabel-comet"].startswith("2.") and record["versions"]["numpy"].startswith("1.")
    assert len(record["checkpoint_sha256"]) == 64

    file = tmp_path / "scores.jsonl"
    header, first, *_ = file.read_text().splitlines(keepends=True)
    # scores that the model does not give show that the first chunk was not scored again
    kept = json.dumps({**json.loads(first), "scores": [7.0, 7.0]}) + "\n"
    file.write_text(header + kept + '{"start": 2, "sco')
    assert metric.score(SEGMENTS, tmp_path)[0] == [7.0, 7.0, *expected[2:]]
    assert (tmp_path / "worker.log").read_text().count("COMET: ") == 2
    # other segments are scored anew
    assert metric.score(SEGMENTS[:1], tmp_path)[0] == expected[:1]


def test_what_is_missing_is_told_before(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Comet(tmp_path / "none.ckpt", Path(sys.executable)).check()
    problems = "\n".join(caught.value.problems)
    assert "none.ckpt" in problems and "hparams.yaml" in problems
    assert "hf download Unbabel/NAME --local-dir FOLDER" in problems and "terms must be accepted" in problems
    with pytest.raises(ConfigError, match="No such file"):
        Comet(tmp_path, tmp_path / "python").check()


@pytest.mark.parametrize("encoder", ["microsoft/infoxlm-large", "/data/of/another/machine"])
def test_an_encoder_that_is_missing_is_told_before(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/model.ckpt").touch()
    (tmp_path / "hparams.yaml").write_text(f"class_identifier: unified_metric\npretrained_model: {encoder}\n")
    with pytest.raises(ConfigError, match=rf"yaml: its encoder {encoder} is no folder .* cache: hf download {encoder} "):
        Comet(tmp_path, Path(sys.executable)).check()
    (tmp_path / "hparams.yaml").write_text("{")
    with pytest.raises(ConfigError, match=r"hparams\.yaml: not that of a COMET model"):
        Comet(tmp_path, Path(sys.executable)).check()


def test_a_worker_that_fails_is_told_with_its_log(tmp_path, tiny_comet, comet_python):
    (tmp_path / "model" / "checkpoints").mkdir(parents=True)
    (tmp_path / "model" / "checkpoints" / "model.ckpt").write_text("no checkpoint")
    (tmp_path / "model" / "hparams.yaml").write_text((tiny_comet / "hparams.yaml").read_text())
    with pytest.raises(UserError, match="COMET ended with exit code 1: .*; see .*worker.log"):
        Comet(tmp_path / "model", comet_python).score(SEGMENTS, tmp_path / "work")
