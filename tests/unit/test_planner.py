"""The plan of a run: totals that agree with the mixture, repeated targets, warnings."""

import json
import subprocess
import sys

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.data.planner import add_targets, aggregate, by_group, by_language, by_pair, plan_rows, warnings
from megatron_lmt.data.repetition import Targets, repetitions
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import UserError
from megatron_lmt.languages import directions
from megatron_lmt.preflight import check_data
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from megatron_lmt.sft.corpus import build_sft_corpus
from tests.conftest import QUICKSTART, REPOSITORY


def planned(run_file, *overrides):
    run = load_run(run_file, list(overrides))
    plan, readers = check_data(run)
    return run, plan, readers, plan_rows(run, plan, readers)


def test_the_plan_is_what_the_mixture_draws(tiny_run):
    run, plan, readers, rows = planned(tiny_run, "data.seq_length=256")
    mixture = Mixture(plan, readers, run.seed, run.data.seq_length, run.data.packing)
    for _ in range(160):
        mixture.next_sample()
    for row, consumed in zip(rows, mixture.ledger(mixture.state_dict()), strict=True):
        assert row["source"] == consumed["source"]
        assert abs(row["planned_samples"] - consumed["samples"]) < 1
        assert consumed["tokens"] == pytest.approx(row["planned_tokens"], rel=0.07)  # short documents fill samples less well
    assert sum(row["planned_samples"] for row in rows) == pytest.approx(160)


def test_views_add_up(tiny_run):
    _, _, _, rows = planned(tiny_run)
    groups = {row["name"]: row for row in aggregate(rows, by_group)}
    assert groups["mono"]["planned_samples"] == pytest.approx(groups["parallel"]["planned_samples"]) == pytest.approx(80)
    assert groups["mono"]["documents"] == 3 * 152 and groups["parallel"]["sources"] == 2
    (pair,) = aggregate(rows, by_pair)
    assert pair["name"] == "en-zh" and pair["documents"] == 152 and pair["weight"] == pytest.approx(0.5)
    languages = {row["name"]: row["weight"] for row in aggregate(rows, by_language)}
    assert languages == pytest.approx({"en": 2 / 3, "zh": 2 / 3, "ar": 1 / 6})


def test_targets_are_told_by_tags_and_their_share_is_right(tiny_run):
    run, plan, readers, rows = planned(tiny_run)
    tokenizer = load_tokenizer(run.data.tokenizer_type, run.path(run.data.tokenizer_model))
    add_targets(rows, run, plan, readers, tokenizer, documents=1000)
    by_member = {row["member"]: row for row in rows}
    for direction in ("en-zh", "zh-en"):
        row = by_member[direction]
        assert row["distinct_targets"] == row["documents"] and row["max_sources"] == 1
        assert 0.1 < row["target_share"] < 0.9
    assert "target_share" not in by_member["ar"]
    assert [w for w in warnings(rows, run, 1000) if "sources on average" in w] == []


def test_targets_of_multi_way_text_have_a_source_in_every_direction(tmp_path, tiny_run, quickstart_tokenizer):
    build_sft_corpus(QUICKSTART / "sft_corpus.toml", tmp_path / "sft", quickstart_tokenizer)
    recipe = Recipe("HuggingFaceTokenizer", quickstart_tokenizer, ("prompt", "target"), ("target",))
    preprocess(recipe, {tmp_path / "sft_tokens" / f.stem: [f] for f in (tmp_path / "sft").glob("*.jsonl")})
    members = [f"{code}-en" for code in ("zh", "es", "ja", "ru")] + [f"en-{code}" for code in ("zh", "es", "ja", "ru")]
    group = f"{{weight=1, path='{tmp_path}/sft_tokens/{{direction}}_text_document', directions={members}, downsample=0.3}}"
    run, plan, readers, rows = planned(tiny_run, f"data.mixture.parallel={group}")
    tokenizer = load_tokenizer(run.data.tokenizer_type, run.path(run.data.tokenizer_model))
    add_targets(rows, run, plan, readers, tokenizer, documents=1000)
    found = {row["member"]: row for row in rows if "mean_sources" in row}
    assert len(found) == 8
    for code in ("es", "ja", "ru"):
        assert found[f"{code}-en"]["mean_sources"] == found[f"{code}-en"]["max_sources"] == 4
        assert found[f"{code}-en"]["mean_sources_downsampled"] == pytest.approx(1.9)  # zh-en, and 0.3 of three
        assert found[f"en-{code}"]["mean_sources"] == 1
        manifest = json.loads((tmp_path / f"sft_tokens/{code}-en_text_document.manifest.json").read_text())
        assert found[f"{code}-en"]["target_share"] == pytest.approx(manifest["loss_tokens"] / manifest["tokens"])


def test_59_sources_of_one_target_become_about_4():
    into_english = directions("x-en")
    targets = {direction: Targets({"the same sentence"}, 0.5) for direction in into_english}
    rates = {direction: 1.0 if direction == "zh-en" else 0.05 for direction in into_english}
    found = repetitions(targets, rates)["ky-en"]
    assert found.max_sources == 59 and found.mean_sources_downsampled == pytest.approx(1 + 58 * 0.05)


def test_warnings_name_the_source(tiny_run):
    run, _, _, rows = planned(tiny_run, "train.train_iters=400", "data.seq_length=256")
    found = "\n".join(warnings(rows, run, most_epochs=4))
    assert "mono/en: seen " in found and "more than 4" in found
    run, _, _, rows = planned(tiny_run, "train.train_iters=1", "train.global_batch_size=2")
    assert "mono/en: 0.33 samples planned, it may never be drawn" in "\n".join(warnings(rows, run, 4))


def test_the_command_prints_tables_and_writes_json_and_a_picture(tiny_run, tmp_path):
    command = [sys.executable, str(REPOSITORY / "tools/plan_mixture.py"), str(tiny_run), "--by", "source"]
    files = ["--json", str(tmp_path / "plan.json"), "--png", str(tmp_path / "plan.png")]
    done = subprocess.run([*command, *files, "--tokens-per-second-per-gpu", "1000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "parallel/zh-en" in done.stdout and "20 steps of 8 samples of 64 positions: 10,240 tokens" in done.stdout
    assert set(json.loads((tmp_path / "plan.json").read_text())) == {"group", "language", "pair", "source", "warnings"}
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    refused = subprocess.run([*command, "data.mixture.mono.weight=-1"], capture_output=True, text=True)
    assert refused.returncode == 2 and "data.mixture.mono.weight" in refused.stderr


def test_a_broken_tokenizer_hides_no_other_problem(tiny_run):
    folder = tiny_run.parent / "tokenizer"
    folder.unlink()  # a link to what other tests use
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError) as error:
        check_data(load_run(tiny_run, ["data.mixture.mono.path=absent/{language}"]))
    assert sum("absent/" in problem for problem in error.value.problems) == 3
    assert "tokenizer.json: not " in error.value.problems[0]
