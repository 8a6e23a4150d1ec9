"""The words of the run file, as weights: within a group, downsampled, capped, and in phases."""

import numpy as np
import pytest

from megatron_lmt.config import RunConfig
from megatron_lmt.data.weights import make_plan
from megatron_lmt.errors import ConfigError
from megatron_lmt.toml_config import validate


class FakeReader:
    """A source of `documents` documents of 10 tokens, of which 9 are predicted."""

    def __init__(self, documents):
        self.num_documents, self.num_tokens = documents, 10 * documents


DOCUMENTS = {
    "mono/en": 400, "mono/ky": 100,
    "en/en-ky": 300, "en/ky-en": 300, "en/en-zh": 100, "en/zh-en": 100,
}  # fmt: skip


def make_run(phases=(), train_iters=100, **groups):
    data = {
        "output_dir": "out",
        "model": {"hf_config": "c"},
        "data": {
            "tokenizer_type": "HuggingFaceTokenizer",
            "tokenizer_model": "t",
            "seq_length": 9,
            "mixture": {
                "mono": {"weight": 1, "path": "{language}", "languages": ["en", "ky"], **groups.get("mono", {})},
                "en": {
                    "weight": 1,
                    "path": "{direction}",
                    "directions": ["en-ky", "ky-en", "en-zh", "zh-en"],
                    **groups.get("en", {}),
                },
            },
            "phases": list(phases),
        },
        "train": {"train_iters": train_iters, "micro_batch_size": 1, "global_batch_size": 10},
        "checkpoint": {"save_interval": 10},
    }
    return validate(RunConfig, data, "run.toml")


def weights(*arguments, **groups):
    plan = make_plan(make_run(*arguments, **groups), {name: FakeReader(n) for name, n in DOCUMENTS.items()})
    found = [dict(zip((source.name for source in plan.sources), phase.weights, strict=True)) for phase in plan.phases]
    assert all(sum(phase.values()) == pytest.approx(1) for phase in found)
    return found if len(found) > 1 else found[0]


def test_uniform_proportional_temperature_and_explicit():
    assert weights()["mono/ky"] == pytest.approx(1 / 4)
    assert weights(mono={"within": "proportional"})["mono/ky"] == pytest.approx(1 / 10)
    assert weights(mono={"within": "temperature", "temperature": 2.0})["mono/ky"] == pytest.approx(1 / 6)  # 2 : 1
    found = weights(mono={"within": "explicit", "weights": {"en": 7.0, "ky": 1.0}})
    assert found["mono/ky"] == pytest.approx(1 / 16)
    assert weights(mono={"weight": 3})["mono/ky"] == pytest.approx(3 / 8)


def test_downsampling_spares_forward_directions_and_the_pivots():
    found = weights(en={"downsample": 0.05})
    assert found["en/ky-en"] == pytest.approx(0.05 * found["en/en-ky"])
    assert found["en/zh-en"] == found["en/en-zh"] == found["en/en-ky"] == pytest.approx(0.5 / 3.05)
    found = weights(en={"downsample": 0.05, "within": "proportional"})
    assert found["en/ky-en"] == pytest.approx(0.05 * 3 * found["en/en-zh"])


def test_phases_change_the_groups_and_keep_the_shares_within():
    phases = [
        {"start_iteration": 20, "weights": {"mono": 3, "en": 1}},
        {"start_iteration": 60, "weights": {"mono": 1, "en": 0}},
    ]
    first, second, third = weights(phases)
    assert first["mono/ky"] == pytest.approx(1 / 4) and second["mono/ky"] == pytest.approx(3 / 8)
    assert third["mono/ky"] == pytest.approx(1 / 2) and third["en/en-ky"] == 0
    plan = make_plan(make_run(phases), {name: FakeReader(n) for name, n in DOCUMENTS.items()})
    assert [phase.start_sample for phase in plan.phases] == [0, 200, 600]
    assert plan.planned_samples(1000)[1] == pytest.approx(200 / 4 + 400 * 3 / 8 + 400 / 2)
    assert plan.planned_samples(300)[1] == pytest.approx(200 / 4 + 100 * 3 / 8)


def test_a_cap_on_epochs_is_an_error_or_redistributed():
    # 1,000 samples of 9 positions: mono/ky is planned 250, and has 100 in an epoch
    with pytest.raises(
        ConfigError, match=r"data\.mixture\.mono: mono/ky would be seen 2\.5 times, more than max_epochs = 2"
    ):
        weights(mono={"max_epochs": 2.0})
    assert weights(mono={"max_epochs": 2.5})["mono/ky"] == pytest.approx(1 / 4)
    found = weights(mono={"max_epochs": 2.0, "on_max_epochs": "redistribute"})
    assert found["mono/ky"] == pytest.approx(0.2) and found["mono/en"] == pytest.approx(0.3)
    found = weights(en={"max_epochs": 0.7, "on_max_epochs": "redistribute"})  # two sources of 100 at their caps
    assert found["en/en-zh"] == found["en/zh-en"] == pytest.approx(0.07)
    assert found["en/en-ky"] == pytest.approx(0.18)
    # what is over of en-zh lifts en-ky above its own cap, and what is over of both goes to the others
    explicit = {"within": "explicit", "weights": {"en-ky": 0.41, "ky-en": 0.3, "en-zh": 0.2, "zh-en": 0.09}}
    found = weights(en={**explicit, "max_epochs": 0.7, "on_max_epochs": "redistribute"})
    assert (found["en/en-zh"], found["en/en-ky"]) == (pytest.approx(0.07), pytest.approx(0.21))
    assert found["en/ky-en"] / found["en/zh-en"] == pytest.approx(0.3 / 0.09)
    with pytest.raises(ConfigError, match="raise max_epochs, or lower"):
        weights(mono={"max_epochs": 0.9, "on_max_epochs": "redistribute"})


def test_random_caps_are_kept_and_nothing_is_lost():
    random = np.random.default_rng(0)
    for _ in range(50):
        en, ky = random.uniform(0.1, 10, 2)
        run = make_run(
            mono={"within": "explicit", "weights": {"en": en, "ky": ky}, "max_epochs": 1.25, "on_max_epochs": "redistribute"}
        )
        plan = make_plan(run, {name: FakeReader(n) for name, n in DOCUMENTS.items()})
        planned = dict(zip((source.name for source in plan.sources), plan.planned_samples(1000), strict=True))
        assert planned["mono/en"] + planned["mono/ky"] == pytest.approx(500)
        assert planned["mono/en"] <= 500.001 and planned["mono/ky"] <= 125.001


@pytest.mark.parametrize(
    ("groups", "phases", "message"),
    [
        ({"mono": {"weight": -1}}, [], r"data\.mixture\.mono\.weight"),
        ({"mono": {"weight": float("nan")}}, [], r"data\.mixture\.mono\.weight"),
        ({"mono": {"weight": "30"}}, [], r"data\.mixture\.mono\.weight: input should be a valid number; the value is '30'"),
        ({"mono": {"weight": 0}, "en": {"weight": 0}}, [], "every group has weight 0"),
        ({"mono": {"languages": ["en", "en"]}}, [], r"\['en'\] are named twice"),
        ({"mono": {"within": "temperature"}}, [], "temperature and within"),
        ({"mono": {"temperature": 5.0}}, [], "temperature and within"),
        ({"mono": {"within": "explicit", "weights": {"en": 1.0, "de": 1.0}}}, [], r"see \['de', 'ky'\]"),
        ({"mono": {"within": "explicit", "weights": {"en": 1.0, "ky": 0.0}}}, [], "weights.ky"),
        ({"mono": {"downsample": 0.5}}, [], "for groups with directions"),
        ({"en": {"downsample": 0.0}}, [], "downsample"),
        ({"en": {"max_epochs": 0.0}}, [], "max_epochs"),
        ({}, [{"start_iteration": 5, "weights": {"mono": 1}}], "give a weight to each of"),
        ({}, [{"start_iteration": 5, "weights": {"mono": 0, "en": 0}}], "all weights are 0 from iteration 5 on"),
        ({}, [{"start_iteration": 100, "weights": {"mono": 1, "en": 1}}], "not before the end, at iteration 100"),
        ({}, [{"start_iteration": i, "weights": {"mono": 1, "en": 1}} for i in (9, 5)], "must rise"),
    ],
)
def test_words_that_make_no_mixture(groups, phases, message):
    with pytest.raises(ConfigError, match=message):
        make_run(phases, **groups)
