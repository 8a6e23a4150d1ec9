import gzip

import pytest

from megatron_lmt.language_id import SCRIPT_ONLY, identify
from megatron_lmt.languages import languages

HARD = {"id": 0.90, "ms": 0.75, "nb": 0.94}
"""Indonesian and Malay, Bokmål and Nynorsk are not always told apart."""


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("py3langid", reason="needs the extra: pip install -e '.[clean]'")


def test_lines_of_each_of_the_60_languages_are_identified(sample_data):
    shares = {}
    for code in languages():
        text = gzip.decompress((sample_data / "flores200_dev" / f"flores.dev.{code}.gz").read_bytes()).decode("utf-8")
        lines = text.split("\n")[:-1:4]
        found = identify(lines)
        shares[code] = sum(name == code for name, _ in found) / len(lines)
        assert all(0 < confidence <= 1 for _, confidence in found)
    assert {code: share for code, share in shares.items() if share < HARD.get(code, 0.985)} == {}
    assert sum(shares.values()) / len(shares) >= 0.99


def test_languages_outside_of_the_table_are_not_taken_for_ours():
    catalan = "El president de la Generalitat va dir ahir que el govern aprovarà els pressupostos abans de final d'any."
    macedonian = "Претседателот вчера изјави дека владата ќе го усвои буџетот пред крајот на годината."
    assert [code for code, _ in identify([catalan, macedonian])] == ["ca", "mk"]


def test_serbian_in_latin_letters_counts_as_croatian_and_in_cyrillic_as_another_language():
    found = identify(
        [
            "Predsednik je juče izjavio da će vlada usvojiti budžet pre kraja godine.",
            "Председник је јуче изјавио да ће влада усвојити буџет пре краја године.",
        ]
    )
    assert [code for code, _ in found] == ["hr", "sr"]


def test_cantonese_by_its_words_and_by_its_characters():
    (words, _), (characters, confidence), (simplified, _) = identify(
        [
            "佢哋今日唔去學校，因為落緊大雨。",
            "當地媒體報導，一輛機場消防車在參與行動時翻側。",
            "当地媒体报道，一辆机场消防车在参与行动时翻侧。",
        ]
    )
    assert (words, characters, simplified) == ("yue", "yue", "zh")
    assert confidence <= SCRIPT_ONLY


@pytest.mark.parametrize("text", ["", "  \t ", "1,234.50 — (2024)", "\u202f\u180e"])
def test_a_text_without_letters_is_undetermined(text):
    assert identify([text]) == [("und", 0.0)]


def test_a_script_counts_only_where_most_letters_are_in_it():
    quotation = "The word ᠮᠣᠩᠭᠣᠯ is written from top to bottom, as are all words of the language, in columns from the left."
    assert identify([quotation])[0][0] == "en"
