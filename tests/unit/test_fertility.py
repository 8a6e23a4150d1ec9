"""Tokens per word, or per character where no spaces part words."""

import json

import pytest

from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError
from megatron_lmt.languages import languages
from megatron_lmt.preprocessing.fertility import fertility_table, measure
from tests.end_to_end.processes import tool


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)


def test_words_where_there_are_spaces_and_characters_elsewhere(tmp_path, tokenizer):
    (tmp_path / "en.txt").write_text("one two\nthree  four five\n")
    (tmp_path / "zh.txt").write_text("一二 三\n", encoding="utf-8")
    (tmp_path / "mvf.jsonl").write_text(json.dumps({"text": "ᠠᠮᠠᠨ ᠤ\u202fᠶᠢᠨ"}) + "\n", encoding="utf-8")
    english = measure("en", tmp_path / "en.txt", tokenizer, None)
    tokens = sum(len(tokenizer.encode(text)) for text in ("one two", "three  four five"))
    assert (english.documents, english.tokens, english.units, english.unit) == (2, tokens, 5, "word")
    assert english.tokens_per_unit == tokens / 5 and english.utf8_bytes == 23 and english.characters == 19
    chinese = measure("zh", tmp_path / "zh.txt", tokenizer, None)
    assert (chinese.units, chinese.unit, chinese.utf8_bytes) == (3, "character", 10)
    mongolian = measure("mvf", tmp_path / "mvf.jsonl", tokenizer, None)
    assert mongolian.unit == "word" and mongolian.units == 2
    assert measure("en", tmp_path / "en.txt", tokenizer, 1).units == 2


def test_which_languages_have_no_spaces():
    without = {code for code, language in languages().items() if not language.has_spaces}
    assert without == {"zh", "ja", "th", "bo", "km", "lo", "my", "yue"}


def test_what_is_missing_is_named(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no such file"):
        measure("en", tmp_path / "absent.txt", tokenizer, None)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no document in it"):
        measure("en", tmp_path / "empty.txt", tokenizer, None)


def test_the_table_has_the_hardest_language_first_and_compares_equal_text_only(tmp_path, tokenizer):
    for code, text in (("en", "water bread\n"), ("de", "Wasser Brot\n"), ("fr", "eau\npain\n"), ("zh", "水面包\n")):
        (tmp_path / f"{code}.txt").write_text(text, encoding="utf-8")
    measured = [measure(code, tmp_path / f"{code}.txt", tokenizer, None) for code in ("zh", "en", "de", "fr")]
    rows = [line.split() for line in fertility_table(measured)[2:]]
    assert rows[-1][0] == "zh" and rows[-1][-4] == "character"
    fertilities = [float(row[-5]) for row in rows[:-1]]
    assert fertilities == sorted(fertilities, reverse=True)
    last = {row[0]: row[-1] for row in rows}
    assert last["en"] == "1.00" and last["fr"] == "-" and float(last["de"]) > 0


def test_60_languages_on_real_text(sample_data, tiny_tokenizer):
    path = sample_data / "flores200_dev" / "flores.dev.{language}.gz"
    shown = tool("inspect_data.py", "fertility", path, "--tokenizer-model", tiny_tokenizer, "--documents", "40", "--json")
    rows = {row["language"]: row for row in map(json.loads, shown.splitlines())}
    assert list(rows) == list(languages()) and all(row["documents"] == 40 for row in rows.values())
    # no Tibetan or Mongolian was in the tokenizer's text: about one token for each byte
    for code in ("bo", "mvf", "km", "my", "am"):
        assert rows[code]["tokens"] > 0.8 * rows[code]["utf8_bytes"]
    assert rows["en"]["tokens"] < 0.75 * rows["en"]["utf8_bytes"]


def test_wrong_arguments(tmp_path, tiny_tokenizer):
    arguments = ("--tokenizer-model", tiny_tokenizer)
    assert "put {language} where" in tool("inspect_data.py", "fertility", "a.txt", *arguments, code=2)
    shown = tool("inspect_data.py", "fertility", tmp_path / "{language}.txt", *arguments, "--languages", "de", "fr", code=2)
    assert shown.count("no such file") == 2
