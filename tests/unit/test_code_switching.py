"""LLaMAX's augmentation: words of the source in other languages, the target as it is, and only for small pairs."""

import json
from collections import Counter

import pytest

from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.preprocessing.records import read_lines
from megatron_lmt.sft.code_switching import Lexicon
from megatron_lmt.sft.config import AugmentSection
from megatron_lmt.sft.corpus import build_sft_corpus
from tests.unit.test_corpus import config, records

DICTIONARY = '[[augment.dictionary]]\npath = "{source}-{target}.dict.tsv"\npairs = ["en-de", "en-km", "zh-th"]\n'
PAIRS = '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-ky"]\n'


@pytest.fixture
def inputs(tmp_path):
    root = tmp_path / "inputs"
    root.mkdir()
    (root / "en-de.dict.tsv").write_text("water\tWasser\tx\nBread\tBrot\tx\nhouse\tHaus\tx\n", encoding="utf-8")
    (root / "en-km.dict.tsv").write_text("water\tទឹក\tx\n", encoding="utf-8")
    (root / "zh-th.dict.tsv").write_text("水\tน้ำ\tx\n水果\tผลไม้\tx\n", encoding="utf-8")
    lines = (f"Water and bread, number {i}.\tСуу жана нан, {i}.\n" for i in range(1000))
    (root / "en-ky.tsv").write_text("".join(lines), encoding="utf-8")
    return root


def lexicon(root, **options):
    pairs = ["en-de", "en-km", "zh-th"]
    section = AugmentSection(dictionary=[{"path": "{source}-{target}.dict.tsv", "pairs": pairs}], **options)
    return Lexicon(section, root)


def test_words_are_found_whatever_their_case_and_punctuation_and_the_rest_stays(inputs):
    german = lexicon(inputs, languages=["de"])
    assert german.switch("en", "“Water”, BREAD\u202f& houses!", 1.0, 1) == "“Wasser”, Brot\u202f& houses!"
    assert german.switch("en", "nothing of it", 1.0, 1) is None
    assert german.switch("ky", "суу", 1.0, 1) is None


def test_dictionaries_are_read_in_both_directions_and_joined(inputs):
    every = lexicon(inputs)
    assert every.switch("km", "ទឹក", 1.0, 1) == "water"
    assert every.switch("de", "das Wasser", 1.0, 1) == "das water"
    found = {every.switch("en", "water", 1.0, key) for key in range(40)}
    assert found == {"Wasser", "ទឹក"}  # 1-hop: from the English word itself


def test_scripts_without_spaces_are_searched_for_the_longest_term(inputs):
    every = lexicon(inputs)
    assert (
        every.switch("zh", "我喝水，吃水果。", 1.0, 1) == "我喝水，吃ผลไม้。"
    )  # single characters are mostly parts of words
    assert every.switch("th", "กินผลไม้", 1.0, 1) == "กิน水果"


def test_the_rate_is_that_of_words_in_the_dictionary(inputs):
    german = lexicon(inputs, languages=["de"])
    switched = [german.switch("en", "water bread house and so on", 0.3, key) or "" for key in range(2000)]
    words = Counter(word for text in switched for word in text.split())
    for word in ("Wasser", "Brot", "Haus"):
        assert abs(words[word] / 2000 - 0.3) < 0.05
    assert abs(sum(not text for text in switched) / 2000 - 0.7**3) < 0.05


def test_of_several_dictionaries_the_larger_is_used(inputs):
    (inputs / "other.en-de.tsv").write_text("water\tGewässer\tx\n", encoding="utf-8")
    for first, second in (("", "other."), ("other.", "")):
        names = {"": "{source}-{target}.dict.tsv", "other.": "other.{source}-{target}.tsv"}
        sections = [{"path": names[name], "pairs": ["en-de"]} for name in (first, second)]
        assert Lexicon(AugmentSection(dictionary=sections), inputs).switch("en", "water", 1.0, 1) == "Wasser"


def build(tmp_path, tokenizer, augment, name="out"):
    text = f"[augment]\n{augment}\n{DICTIONARY}[pmp]\nshare = 0.0\n[downsample]\nscope = 'all'\n{PAIRS}"
    report = build_sft_corpus(config(tmp_path, text), tmp_path / name, tokenizer)
    return report, {direction: records(tmp_path / name, direction) for direction in report.directions}


def test_a_small_pair_is_repeated_and_code_switched_up_to_its_number(tmp_path, inputs, tiny_tokenizer):
    # 1,000 pairs, three times: 2,000 are missing, two copies of each; "water" and "bread" are in dictionaries
    report, found = build(tmp_path, tiny_tokenizer, "below_pairs = 5000\nrate = 1.0")
    switched = [record for record in found["en-ky"] if record["id"].endswith(":code-switched")]
    originals = Counter(record["id"] for record in found["en-ky"] if record not in switched)
    assert set(originals.values()) == {3} and len(originals) == 1000
    assert 1000 <= len(switched) <= 2000 and report.directions["en-ky"].code_switched == len(switched)
    for record in switched:
        number = int(record["id"].split(":")[1]) - 1
        assert record["target"] == f"Суу жана нан, {number}.<|im_end|>"
        assert f", number {number}.\nKirghiz:" in record["prompt"] and "Water" not in record["prompt"]
        assert "Wasser" in record["prompt"] or "ទឹក" in record["prompt"]
    # downsampling keeps its share: repeats and copies are of what it keeps; Kirghiz words are in no dictionary
    kept = report.directions["ky-en"].after
    assert kept < 100 and len(found["ky-en"]) == 3 * kept
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    assert summary["records"]["en-ky"] == 3000 + len(switched)


def test_copies_are_limited_and_large_pairs_are_left_alone(tmp_path, inputs, tiny_tokenizer):
    report, found = build(tmp_path, tiny_tokenizer, "max_copies = 1\nrepeat = 2", "few")
    assert len(found["en-ky"]) == 2000 + report.directions["en-ky"].code_switched < 3000
    report, _ = build(tmp_path, tiny_tokenizer, "below_pairs = 3001\nrate = 1.0", "one")  # of 3,001 one is missing
    assert report.directions["en-ky"].code_switched == 1000
    report, found = build(tmp_path, tiny_tokenizer, "below_pairs = 1000", "none")
    assert len(found["en-ky"]) == 1000 and not report.directions["en-ky"].code_switched


def test_repeats_without_a_dictionary(tmp_path, inputs, tiny_tokenizer):
    report = build_sft_corpus(config(tmp_path, f"[augment]\nrepeat = 2\n{PAIRS}"), tmp_path / "out", tiny_tokenizer)
    assert len(records(tmp_path / "out", "en-ky")) == 2000 and not report.directions["en-ky"].code_switched


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ('languages = ["fr"]', r"augment.languages \['fr'\]: no dictionary has them"),
        ('languages = ["xx"]', "unknown language code 'xx'"),
        ("rate = 0.0", "augment.rate"),
        ("below_pairs = 9\n[[augment.dictionary]]\npath = 'absent.{source}'\npairs = ['en-de']", "absent.en: no such file"),
    ],
)
def test_a_wrong_augmentation_is_refused(tmp_path, inputs, tiny_tokenizer, augment, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build(tmp_path, tiny_tokenizer, augment)
    assert not (tmp_path / "out").exists()


def test_real_dictionaries_and_hard_scripts(sample_data):
    """Words of real sentences are found in each of these languages, and all else is kept byte for byte."""
    codes = ("am", "ar", "bo", "he", "ja", "km", "my", "th", "de", "hi", "zh")
    pairs = [f"en-{code}" for code in codes if code != "zh"] + [f"zh-{code}" for code in codes if code != "zh"]
    section = AugmentSection(dictionary=[{"path": "dict/{source}-{target}.dict.tsv.gz", "pairs": pairs}])
    every = Lexicon(section, sample_data)
    for code in ("en", *codes):
        lines = [line for _, line in read_lines(sample_data / f"ntrex/ntrex.{code}.txt.gz")][:200]
        switched = [every.switch(code, line, 0.3, number) for number, line in enumerate(lines)]
        found = sum(text is not None for text in switched)
        assert found > 15, (code, found)
        assert all(text != line for text, line in zip(switched, lines, strict=True) if text)
