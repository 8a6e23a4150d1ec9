"""The mixture of 60 languages and 234 directions on real text: one run file, 294 sources, full samples."""

import numpy as np
import pytest

from megatron_lmt.config import load_run
from megatron_lmt.corpus.cpt import build_cpt_corpus
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.preflight import check_data
from megatron_lmt.preprocessing.inputs import sources_in
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def token_files(tmp_path_factory, sample_data, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("sample60")
    build_cpt_corpus(REPOSITORY / "examples/sample60/corpus.toml", folder / "text", root=str(sample_data))
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer)
    preprocess(recipe, sources_in(folder / "text", folder / "tokens"), workers=2)
    (folder / "tokenizer").symlink_to(tiny_tokenizer)
    return folder


def test_the_lmt_mixture_is_a_short_run_file_that_names_no_file_twice():
    file = REPOSITORY / "examples/lmt60/qwen3_4b_cpt_8xh100.toml"
    run = load_run(file)
    assert len(file.read_text().splitlines()) < 60
    assert run.train_iters == 28_611 and run.lr_warmup_iters == 1_431
    members = [m for group in run.data.mixture.values() for m in group.languages or group.directions]
    assert len(members) == len(set(members)) == 60 + 234


def test_shares_and_fill_on_real_text(token_files):
    overrides = [f"root={token_files}", "data.seq_length=2048"]
    run = load_run(REPOSITORY / "examples/sample60/cpt.toml", overrides)
    plan, readers = check_data(run)
    mixture = Mixture(plan, readers, run.seed, run.data.seq_length, run.data.packing)
    for _ in range(3000):
        mixture.next_sample()
    ledger = mixture.ledger(mixture.state_dict())
    assert len(ledger) == 294 and all(abs(row["samples"] - row["planned_samples"]) < 1 for row in ledger)
    groups = {group: sum(row["samples"] for row in ledger if row["group"] == group) for group in ("mono", "en", "zh")}
    assert groups == {"mono": 1000, "en": 1000, "zh": 1000}
    assert np.mean([row["tokens"] / (row["samples"] * 2048) for row in ledger]) > 0.99
