import pytest

from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import GROUPS, directions, languages, pairs, split_direction


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
    ("wrong", "hint"), [("en-xx", "'xx'"), ("en-en", "same"), ("en", "''"), ("Kirghiz-en", "did you mean ky")]
)
def test_a_wrong_direction_is_named(wrong, hint):
    with pytest.raises(ConfigError, match=hint):
        split_direction(wrong)
