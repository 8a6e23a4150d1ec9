"""The alert rule: what is directional degeneration, and what only looks like it."""

import json

import pytest

from megatron_lmt.degeneration import (
    DegenerationWatch,
    degeneration_record,
    direction_of,
    directional_degeneration,
    validation_scores,
)
from megatron_lmt.snapshots import LEAST_FALL, chrf_scores


def history(into, out, pivot="en", codes=("de", "ky")):
    return [
        (100 * i, {f"{c}-{pivot}": a for c in codes} | {f"{pivot}-{c}": b for c in codes})
        for i, (a, b) in enumerate(zip(into, out, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("into", "out", "alert"),
    [
        ([40, 45, 30, 28], [20, 25, 30, 32], True),
        ([40, 45, 44, 42], [20, 25, 30, 32], False),  # two records below the best, but 44 is near it
        ([40, 45, 30], [20, 25, 30], False),  # only one record: may be noise
        ([40, 45, 30, 44], [20, 25, 30, 32], False),  # recovered
        ([40, 45, 30, 28], [20, 25, 24, 23], False),  # both fall: something else is wrong
        ([40, 45, 30, 28], [20, 35, 30, 36], False),  # pivot→X was below in one of them
        ([40, 45, 50, 55], [20, 25, 30, 35], False),
        ([4.0, 4.2, 3.7, 3.3], [2.0, 2.1, 2.4, 2.6], False),  # not by enough
        ([45, 40, 41, 42], [20, 25, 30, 32], True),  # the best was the first
        ([], [], False),
    ],
)
@pytest.mark.parametrize("pivot", ["en", "zh"])
def test_rule(into, out, alert, pivot):
    found = directional_degeneration(history(into, out, pivot), least_fall=2.0)
    assert len(found) == alert
    if alert:
        assert found[0].pivot == pivot and found[0].into_pivot == (max(into), into[-1])
        assert f"X→{pivot} fell from {max(into):.3f}" in str(found[0]) and "2 languages" in str(found[0])


def test_losses_are_scores_below_zero():
    into, out = [2.0, 1.8, 2.0, 2.2], [3.0, 2.5, 2.3, 2.2]
    records = [
        {"iteration": i, "validation_loss/dev.de-en": a, "validation_loss/dev.en-de": b, "validation_loss/mono": 1.0}
        for i, (a, b) in enumerate(zip(into, out, strict=True))
    ]
    found = directional_degeneration([(r["iteration"], validation_scores(r)) for r in records], least_fall=0.02)
    assert [d.best_iteration for d in found] == [1]


def test_translations_of_snapshots_are_watched(tmp_path):
    watch = DegenerationWatch(tmp_path / "evaluation.jsonl", chrf_scores, LEAST_FALL)
    alerts = []
    for iteration, scores in history([40, 45, 42, 38], [20, 25, 30, 32], "zh"):
        chrf = {f"chrf++/{direction}": score for direction, score in scores.items()}
        means = {"chrf++/x-zh": 1.0, "bleu/de-zh": 99.0, "off_target_rate/de-zh": 0.1}
        alerts.append(watch.see({"iteration": iteration, **chrf, **means}))
    assert [len(found) for found in alerts] == [0, 0, 0, 1]
    assert degeneration_record(alerts[3]) == {"directional_degeneration/zh": 7.0}


def test_the_loss_of_the_target_tokens_counts_where_it_is_known():
    record = {
        "iteration": 1,
        "validation_loss/de-en": 2.0,
        "validation_target_loss/de-en": 1.0,
        "validation_loss/zh-en": None,
    }
    assert validation_scores(record) == {"de-en": -1.0}


def test_only_languages_with_both_directions_in_all_records_count():
    records = history([40, 45, 30, 28], [20, 25, 30, 32])
    for _, scores in records:
        scores["fr-en"] = 90.0  # no en-fr
    records[0][1]["it-en"] = records[0][1]["en-it"] = 1.0
    (found,) = directional_degeneration(records, least_fall=1.0)
    assert found.languages == ("de", "ky")
    # en-zh is forward in both directions
    both = [(i, {"zh-en": a, "en-zh": b}) for i, (a, b) in enumerate([(40, 20), (45, 25), (30, 30), (28, 32)])]
    assert directional_degeneration(both, least_fall=1.0) == []


def test_a_resumed_run_remembers(tmp_path):
    records = [{"iteration": i, **scores} for i, scores in history([40, 45, 30, 28], [20, 25, 30, 32])]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records[:3]))

    def scores(record):
        return {name: value for name, value in record.items() if name != "iteration"}

    assert DegenerationWatch(file, scores, 1.0).see(records[3])
    watch = DegenerationWatch(tmp_path / "none.jsonl", scores, 1.0)
    assert [bool(watch.see(record)) for record in records] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("de-en", "de-en"),
        ("flores/yue-zh", "yue-zh"),
        ("dev.en-mvf", "en-mvf"),
        ("mono", None),
        ("xx-en", None),
        ("x-de-en", None),
    ],
)
def test_sources_named_after_a_direction(name, direction):
    assert direction_of(name) == direction
