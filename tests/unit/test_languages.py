import pytest

from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import GROUPS, auxiliary_language, directions, languages, pairs, split_direction


def test_60_languages_117_pairs_234_directions():
    assert len(languages()) == 60
    assert len(set(pairs("all"))) == 117
    assert len(set(directions("all"))) == 234
    assert set(directions("all")) == {pair for name in pairs("all") for pair in (name, "-".join(reversed(name.split("-"))))}


@pytest.mark.parametrize("group", GROUPS)
def test_every_direction_of_a_group_has_a_pivot_on_its_side(group):
    for direction in directions(group):
        source, target = split_direction(direction)
        assert {source, target} & {"en", "zh"}
        if group in ("en-x", "zh-x"):
            assert source == group[:2]
        if group in ("x-en", "x-zh"):
            assert target == group[2:]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("en-xx", "'xx'"), ("en-en", "same"), ("en_ky", "write source-target"), ("Kirghiz-en", "did you mean ky")],
)
def test_a_wrong_direction_is_named(wrong, hint):
    with pytest.raises(ConfigError, match=hint):
        split_direction(wrong)


TABLE_12 = (
    "es-pt de-nl fr-it it-fr nl-de pl-cs bg-ru cs-pl da-nb fa-ar fi-hu hi-bn hu-fi id-nl nb-da ro-it sk-cs sv-nb uk-ru "
    "vi-fr az-tr hr-cs is-da jv-id kk-ru ky-ru lo-th mr-hi ms-id ne-hi ps-fa tg-ru tl-id ug-fa ur-fa uz-fr"
)


def test_auxiliary_languages_are_the_papers():
    expected = dict(pair.split("-") for pair in TABLE_12.split())
    found = {code: auxiliary_language("en", code) for code in languages() if code != "en"}
    assert {code: auxiliary for code, auxiliary in found.items() if auxiliary} == expected and len(expected) == 36
    assert all(auxiliary_language(code, "en") == found[code] for code in found)


def test_auxiliary_languages_beside_the_papers():
    others = [code for code in languages() if code not in ("en", "zh")]
    assert {auxiliary_language(*pair) for code in others for pair in (("zh", code), (code, "zh"))} == {"en"}
    assert auxiliary_language("en", "zh", proposals=True) is None and auxiliary_language("de", "fr", proposals=True) is None
    assert all(auxiliary_language("en", code, proposals=True) not in (None, "en", code) for code in others)
    assert auxiliary_language("ja", "en") is None and auxiliary_language("ja", "en", proposals=True) == "zh"
