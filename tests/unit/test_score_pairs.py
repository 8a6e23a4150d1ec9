"""Scores for [clean.quality] by a real COMET model, tiny, in a Python of its own; and what is said where it is absent."""

import json
import subprocess
import sys

import pytest

from megatron_lmt.corpus import score_pairs as module
from megatron_lmt.corpus.score_pairs import score_pairs
from megatron_lmt.errors import UserError
from megatron_lmt.eval.comet import Comet
from tests.conftest import LINES, REPOSITORY, make_comet

CONFIG = """
seed = 24  # whichever line is rejected, each pair has records in both directions
[clean.quality]
scores = "scores.{source}-{target}.txt"
best_share = 0.75
[[pairs]]
path = "{source}-{target}.tsv"
pairs = ["en-fr", "en-de", "en-ru", "en-ar"]
[[aligned]]
path = "{language}.txt"
pairs = ["en-ja"]
clean = { off = ["quality"] }
"""


BY_ITSELF = """
import json, sys
from comet import load_from_checkpoint
model = load_from_checkpoint(sys.argv[1], local_files_only=True)
parts = json.loads(sys.argv[2])
print(json.dumps([model.predict(part, gpus=0, progress_bar=False).scores for part in parts]))
"""


def scores_by_itself(python, model, *parts: list[dict]) -> list[list[float]]:
    """Of each part, by unbabel-comet without anything of ours."""
    command = [python, "-I", "-c", BY_ITSELF, model / "checkpoints/model.ckpt", json.dumps(parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def samples(file) -> list[dict]:
    pairs = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    return [{"src": source, "mt": target} for source, target in pairs]


@pytest.fixture
def corpus(tmp_path):
    for code, target in (("fr", LINES[3]), ("de", LINES[2]), ("ru", LINES[4]), ("ar", LINES[7])):
        rows = [f"{LINES[0]}\t{target[: 12 * length]}\n" for length in range(1, 6)]
        (tmp_path / f"en-{code}.tsv").write_text("".join(rows), encoding="utf-8")
    for code, lines in (("en", LINES[:2]), ("ja", LINES[6:8])):
        (tmp_path / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "corpus.toml").write_text(CONFIG)
    return tmp_path / "corpus.toml"


def test_scores_are_the_models_whatever_the_parts_and_the_builder_takes_them(corpus, tiny_kiwi, comet_python, monkeypatch):
    for code in ("fr", "ru", "ar"):
        (corpus.parent / f"scores.en-{code}.txt").write_text("1\n2\n3\n4\n5\n")
    monkeypatch.setattr(module, "PAIRS_IN_A_PART", 3)
    comet = Comet(tiny_kiwi, comet_python)
    written = corpus.parent / "scores.en-de.txt"
    assert score_pairs(corpus, comet) == {written: 5}  # the others are there
    (expected,) = scores_by_itself(comet_python, tiny_kiwi, samples(corpus.parent / "en-de.tsv"))
    assert list(map(float, written.read_text().split())) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 5
    assert sorted(path.name for path in corpus.parent.glob("scores.*")) == [
        f"scores.en-{code}.txt" for code in ("ar", "de", "fr", "ru")
    ]
    command = [sys.executable, REPOSITORY / "tools/score_pairs.py", "--config", corpus]
    command += ["--comet-checkpoint", tiny_kiwi, "--comet-python", comet_python]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all scores are there\n")
    command = [sys.executable, REPOSITORY / "tools/build_corpus.py", "cpt", "--config", corpus]
    done = subprocess.run([*command, "--output", corpus.parent / "out"], capture_output=True, text=True, check=True)
    assert "all of these" in done.stdout and f"kept in {corpus.parent / 'out'}.rejected.jsonl.gz" in done.stdout
    report = json.loads((corpus.parent / "out/corpus.json").read_text())
    assert report["rejected"] == {f"en-{code}.tsv": {"quality": 1} for code in ("fr", "de", "ru", "ar")}


def test_a_model_that_can_use_references_gets_none(corpus, tmp_path, comet_python):
    """An empty one is not none."""
    model = make_comet(tmp_path, comet_python, "unite")
    (written,) = score_pairs(corpus, Comet(model, comet_python), only=["en-ru"])
    pairs = samples(corpus.parent / "en-ru.tsv")
    without, empty = scores_by_itself(comet_python, model, pairs, [{**pair, "ref": ""} for pair in pairs])
    assert list(map(float, written.read_text().split())) == pytest.approx(without, abs=1e-5)
    assert without != pytest.approx(empty, abs=1e-5)


def test_a_model_that_needs_references_is_refused(corpus, tiny_comet, comet_python):
    with pytest.raises(UserError, match="RegressionMetric of .*model.ckpt needs references; take a model without"):
        score_pairs(corpus, Comet(tiny_comet, comet_python), only=["en-ru"])
    assert not list(corpus.parent.glob("scores.*.txt"))


@pytest.mark.parametrize(
    ("change", "only", "message"),
    [
        (("", ""), ["en-ja", "en-ko"], "--only en-ja en-ko: no input of this pair has clean.quality.scores"),
        (('"en-ar"]', '"en-ar"]\nclean = { off = ["quality"] }'), None, "no pairs have clean.quality.scores"),
        (('"en-ar"]', '"en-ar", "en-ko"]'), None, r"en-ko\.tsv: no such file"),
        (("", ""), None, "COMET checkpoint .*none: no file"),
    ],
)
def test_what_is_wrong_is_told_before_work(corpus, tmp_path, change, only, message):
    corpus.write_text(corpus.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        score_pairs(corpus, Comet(tmp_path / "none", tmp_path / "python"), only=only)


def test_a_folder_that_cannot_be_written(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Comet, "check", lambda self: None)
    corpus.write_text(corpus.read_text().replace('"scores.{source}', '"corpus.toml/scores.{source}'))
    with pytest.raises(UserError, match=r"stopped: .*corpus\.toml/scores.*; mend that and start again"):
        score_pairs(corpus, Comet(tmp_path / "none", tmp_path / "python"))


def test_two_inputs_cannot_share_a_file_of_scores(corpus, tmp_path):
    corpus.write_text(corpus.read_text().replace('["en-ja"]\nclean = { off = ["quality"] }', '["en-de"]'))
    with pytest.raises(UserError, match=r"scores\.en-de\.txt: the scores of two inputs"):
        score_pairs(corpus, Comet(tmp_path / "none", tmp_path / "python"))
