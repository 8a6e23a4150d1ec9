"""tools/evaluate_mt.py on real text: 20 directions of hard scripts, translated, scored, with COMET, started twice."""

import gzip
import json

import pytest

from megatron_lmt.eval.evaluate import method_of
from megatron_lmt.languages import directions
from tests.end_to_end.processes import tool

pytest.importorskip("py3langid", reason="evaluation needs the extra [eval]")
pytest.importorskip("MeCab", reason="evaluation of ja needs the extra [eval]")

LANGUAGES = ("mvf", "bo", "my", "km", "am", "ar", "he", "th", "ja", "yue")
SENTENCES = 3


@pytest.fixture
def test_set(tmp_path, sample_data):
    folder = tmp_path / "flores"
    folder.mkdir()
    for code in (*LANGUAGES, "en", "zh"):
        with gzip.open(sample_data / "flores200_dev" / f"flores.dev.{code}.gz", "rb") as file:
            (folder / f"{code}.txt").write_bytes(b"".join(file.readline() for _ in range(SENTENCES + 1)))
    return folder


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluation_of_a_model_with_comet(tmp_path, test_set, tiny_exported, tiny_comet, comet_python):
    named = [f"{source}-{target}" for code in LANGUAGES for source, target in (("en", code), (code, "zh"))]
    output = tmp_path / "evaluation"
    arguments = ["--model", tiny_exported, "--test-set", test_set, "--output-dir", output, "--max-sentences", SENTENCES]
    arguments += ["--num-beams", 2, "--max-new-tokens", 8, "--prompt", "pmp-oracle"]
    refused = tool("evaluate_mt.py", *arguments, "--max-new-tokens", 3500, "--directions", *named, code=2)
    assert "mvf-zh, its longest line: a prompt of" in refused and "en-mvf" not in refused
    assert not list((output / "translations").glob("*.txt"))
    tool("evaluate_mt.py", *arguments, "--directions", *named[:2])
    kept = (output / "translations" / f"{named[0]}.txt").stat().st_mtime_ns
    arguments += ["--comet-checkpoint", tiny_comet, "--comet-python", comet_python]
    printed = tool("evaluate_mt.py", *arguments, "--directions", *named)
    assert (output / "translations" / f"{named[0]}.txt").stat().st_mtime_ns == kept

    records = read_jsonl(output / "scores.jsonl")
    assert [record["direction"] for record in records] == named and len(named) == 20
    assert all(record["sentences"] == SENTENCES for record in records)
    assert [r["direction"] for r in records if not r["comet_covered"]] == [
        "en-mvf",
        "mvf-zh",
        "en-bo",
        "bo-zh",
        "en-yue",
        "yue-zh",
    ]
    segments = iter(s for chunk in read_jsonl(output / "comet" / "scores.jsonl")[1:] for s in chunk["scores"])
    for record in records:
        assert record["comet"] == pytest.approx(100 * sum(next(segments) for _ in range(SENTENCES)) / SENTENCES)
        assert {"bleu", "chrf++", "comet"} == record["signatures"].keys()
        translations = (output / "translations" / f"{record['direction']}.txt").read_text(encoding="utf-8")
        assert len(translations.splitlines()) == SENTENCES
    about = json.loads((output / "evaluation.json").read_text())
    assert about["comet"]["versions"]["unbabel-comet"] and about["comet"]["precision"] == "float32"
    # the paper has no auxiliary language for any of these and English; zh-X and X-zh take English
    assert f"translated plainly, for want of a third language: {' '.join(named[::2])}" in printed
    for name in ("report.txt", "off_target.tsv", "heat_map_comet.png", "heat_map_bleu.png", "heat_map_chrfpp.png"):
        assert (output / name).stat().st_size > 0
    assert "another evaluation: made_by differ" in tool(
        "evaluate_mt.py", *arguments, "--num-beams", 1, "--directions", *named, code=2
    )


def test_references_as_translations_are_perfect_and_sources_are_copies(tmp_path, test_set):
    everything = [d for d in directions("all") if set(d.split("-")) <= {*LANGUAGES, "en", "zh"}]
    for name in ("perfect", "copies"):
        (tmp_path / name).mkdir()
    for direction in everything:
        source, target = direction.split("-")
        for name, code in (("perfect", target), ("copies", source)):
            (tmp_path / name / f"{direction}.txt").write_bytes((test_set / f"{code}.txt").read_bytes())
    arguments = ["--test-set", test_set, "--directions", "all-234"]
    printed = tool("evaluate_mt.py", "--translations", tmp_path / "perfect", *arguments, "--output-dir", tmp_path / "one")
    assert f"{len(everything)} directions" in printed and "not in the test set: en-es" in printed
    for record in read_jsonl(tmp_path / "one" / "scores.jsonl"):
        assert record["bleu"] == pytest.approx(100) and record["chrf++"] == pytest.approx(100)
        assert record["off_target_rate"] == record["source_copy_rate"] == record["length_outlier_rate"] == 0
    tool("evaluate_mt.py", "--translations", tmp_path / "copies", *arguments, "--output-dir", tmp_path / "two")
    for record in read_jsonl(tmp_path / "two" / "scores.jsonl"):
        assert record["source_copy_rate"] == record["source_rate"] == record["off_target_rate"] == 1
        assert record["bleu"] < 30


def test_directions_without_a_third_language_are_translated_plainly():
    options = {"prompt": "pmp-oracle", "template": "release", "through": None}

    def way(direction, known, **changes):
        return method_of(direction, {**options, **changes}, known).prompt

    assert way("en-ky", {"en", "ky", "ru"}) == "pmp-oracle"
    assert way("en-ky", {"en", "ky"}) == way("en-mvf", {"en", "mvf", "zh"}) == "stp"
    assert way("en-ky", {"en", "ky"}, prompt="pmp-self") == "pmp-self"
    assert [way(direction, {}, prompt="pivot") for direction in ("zh-ky", "en-ky")] == ["pivot", "stp"]


def test_all_problems_are_told_before_any_work(tmp_path, test_set):
    output = tool(
        "evaluate_mt.py",
        *("--model", tmp_path, "--test-set", test_set, "--directions", "en-xx", "en-ky", "--output-dir", tmp_path / "out"),
        *("--comet-checkpoint", tmp_path, "--spbleu-model", test_set / "en.txt", "--compare", tmp_path / "none"),
        *("--num-beams", 0, "--max-sentences", 0, "--through", "yy", "--prompt", "pmp-self", "--template", "alpaca"),
        code=2,
    )
    for problem in (
        "no config.json",
        "'xx'",
        "no file of ky",
        "hparams.yaml",
        "no SentencePiece",
        "none: No such",
        "at least 1",
    ):
        assert problem in output
    for problem in ("unknown language code 'yy'", "--template alpaca has no wording"):
        assert problem in output
    assert not (tmp_path / "out").exists()
