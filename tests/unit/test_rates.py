"""Rates of bad outputs, on sentences that have each fault and on real ones that have none."""

import gzip

import pytest

from megatron_lmt.eval.rates import off_target_rates, output_rates

HARD = ("mvf", "bo", "my", "km", "am", "ar", "he", "th", "ja", "lo", "ka", "zh", "yue", "si", "ur")


def read(sample_data, code):
    with gzip.open(sample_data / "flores200_dev" / f"flores.dev.{code}.gz", "rt", encoding="utf-8", newline="\n") as file:
        return [line.removesuffix("\n") for line in file]


def rate(name, translation, source="The house is red.", reference="Das Haus ist rot."):
    return output_rates([source], [translation], [reference])[name]


def test_empty():
    assert [rate("empty_rate", text) for text in ("", " \u3000", ".")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("translation", "copied"),
    [("The house is red.", 1), ("the house is RED", 1), ("The house is red, ja", 0), ("Das Haus ist rot.", 0), ("", 0)],
)
def test_source_copy(translation, copied):
    assert rate("source_copy_rate", translation) == copied


def test_a_copy_that_is_right_is_none():
    assert rate("source_copy_rate", "COVID-19", source="COVID-19", reference="Covid-19") == 0
    assert rate("source_copy_rate", "?!", source="...", reference="!") == 0


@pytest.mark.parametrize(
    ("translation", "loops"),
    [
        ("Das Haus das Haus das Haus das Haus das Haus das Haus", 1),
        ("水和" * 8, 1),
        ("水和" * 7, 0),
        ("a" * 16, 1),
        ("ᠭᠠᠵᠠᠷ\u202f" * 4, 1),
        ("ja ja ja, das Haus ist rot", 0),
        ("", 0),
    ],
)
def test_repetition(translation, loops):
    assert rate("repetition_rate", translation) == loops


def test_a_loop_that_the_reference_has_too_is_none():
    assert rate("repetition_rate", "=" * 30, reference="=" * 20) == 0


def test_lengths():
    assert [rate("length_outlier_rate", "x" * n, reference="y" * 9) for n in (0, 2, 3, 9, 27, 28)] == [1, 1, 0, 0, 0, 1]
    assert output_rates(["a", "b"], ["xx", "xxxx"], ["yyy", "y"])["length_ratio"] == 6 / 4


def test_languages_of_outputs():
    identified = ["de", "de", "nl", "en", "und"]
    found = off_target_rates("en", "de", identified, ["de"] * 9 + ["nl"])
    assert (found["target_rate"], found["source_rate"], found["undetermined_rate"]) == (0.4, 0.2, 0.2)
    assert found["off_target_rate"] == pytest.approx(0.4)
    assert found["reference_off_target_rate"] == pytest.approx(0.1)
    assert found["languages"] == {"de": 0.4, "nl": 0.2, "en": 0.2, "und": 0.2}
    found = off_target_rates("en", "de", ["und"], ["de"])
    assert (found["off_target_rate"], found["undetermined_rate"], found["target_rate"]) == (0, 1, 0)


@pytest.mark.parametrize("code", HARD)
def test_real_text_has_no_fault(sample_data, code):
    english, text = read(sample_data, "en"), read(sample_data, code)
    rates = output_rates(english, text, text)
    assert rates.pop("length_ratio") == 1
    assert set(rates.values()) == {0}
    copied = output_rates(english, english, text)
    assert copied["source_copy_rate"] == 1


def test_real_text_never_loops_and_is_never_a_copy_without_its_reference_being_one(sample_data):
    """Against references that cannot excuse it."""
    english = read(sample_data, "en")
    for code in HARD:
        rates = output_rates(english, read(sample_data, code), ["x" * 100] * len(english))
        assert rates["repetition_rate"] == 0 and rates["source_copy_rate"] == 0, code
