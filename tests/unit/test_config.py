from pathlib import Path

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import directions
from tests.conftest import REPOSITORY

RUN = """
output_dir = "out"
[model]
hf_config = "config.json"
[data]
tokenizer_type = "HuggingFaceTokenizer"
tokenizer_model = "tokenizer"
seq_length = 2048
[data.mixture.mono]
weight = 1
path = "mono.{language}"
languages = "all"
[data.mixture.en]
weight = 1
path = "{source}/{target}"
directions = "en-centric"
[train]
train_tokens = 90_000_000
micro_batch_size = 4
global_batch_size = 32
[checkpoint]
save_interval = 100
"""


def load(tmp_path: Path, text: str, *overrides: str):
    (tmp_path / "run.toml").write_text(text)
    return load_run(tmp_path / "run.toml", list(overrides))


def test_groups_are_spelled_out_and_the_budget_becomes_iterations(tmp_path):
    run = load(tmp_path, RUN)
    assert len(run.data.mixture["mono"].languages) == 60
    assert len(run.data.mixture["en"].directions) == 118
    assert run.train_iters == 1374  # 90e6 / (2048 · 32), rounded up
    assert run.lr_warmup_iters == 69
    assert run.output_dir == tmp_path / "out"


def test_a_group_of_directions_between_some_languages(tmp_path):
    run = load(tmp_path, RUN, 'data.mixture.en.languages=["ky", "zh", "en"]')
    group = run.data.mixture["en"]
    assert (group.directions, group.languages) == (["en-zh", "en-ky", "zh-en", "ky-en"], None)
    assert type(group).model_validate(group.model_dump()) == group


def test_defaults_are_the_recipe(tmp_path):
    optimizer = load(tmp_path, RUN).optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.lr_warmup_fraction) == (2e-5, 0.01, 0.05)


def test_overrides_are_toml_values_or_plain_text(tmp_path):
    run = load(
        tmp_path, RUN, "train.micro_batch_size=8", "optimizer.lr=1e-4", "output_dir=/x/y", "parallel.sequence_parallel=false"
    )
    assert (run.train.micro_batch_size, run.optimizer.lr, run.output_dir) == (8, 1e-4, Path("/x/y"))


def test_all_problems_are_reported_at_once_each_with_its_key(tmp_path):
    text = RUN.replace("seq_length = 2048", 'seq_length = "2048"').replace('languages = "all"', 'languages = ["no", "en"]')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, "train.micro_batchsize=3", "optimizer.lr=true", "checkpoint.save_interval=0")
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "data.seq_length: input should be a valid integer; the value is '2048'" in problems
    assert "data.mixture.mono.languages: unknown language code 'no'" in problems
    assert "train.micro_batchsize: unknown key; did you mean train.micro_batch_size?" in problems
    assert "optimizer.lr: " in problems and "checkpoint.save_interval: " in problems


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.train_iters=5", "exactly one of"),
        ("parallel.sequence_parallel=true", "needs tensor_model_parallel_size > 1"),
        ("parallel.virtual_pipeline_model_parallel_size=2", "needs pipeline_model_parallel_size > 1"),
        ("parallel.num_layers_in_last_pipeline_stage=2", "needs pipeline_model_parallel_size > 1"),
        ("parallel={overlap_param_gather=true, overlap_grad_reduce=false}", "needs overlap_grad_reduce"),
        ("parallel.recompute_granularity=full", "goes with both recompute_method and recompute_num_layers"),
        ('parallel={recompute_granularity="selective", recompute_num_layers=1}', "goes with both recompute_method"),
        ('parallel.recompute_modules=["mlp"]', 'needs recompute_granularity = "selective"'),
        ("data.mixture.mono.path=plain", "names one file for several sources"),
        ("data.mixture.mono.path={language}.{tier}", "unknown placeholders"),
        ('data.mixture.mono.directions="all"', "give languages or directions"),
        ('data.mixture.en.languages=["de", "ky"]', "none of en-zh, .* is between two of these"),
        ('data.mixture.en.languages=["en", "deu"]', "data.mixture.en: unknown language code 'deu'"),
        ("data.mixture.en.directions=en-everything", "unknown group of directions"),
        ("optimizer.min_lr=1.0", "above lr"),
        ("seed", "write key=value"),
        ("output_dir.x=1", "not a section"),
        ("optimiser.lr=1.0", "optimiser: unknown key; did you mean optimizer?"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, RUN, override)


def test_a_broken_or_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"run.toml: not TOML: .*line 2"):
        load(tmp_path, "\nseed = \n")
    with pytest.raises(ConfigError, match="absent.toml: no such file"):
        load_run(tmp_path / "absent.toml")


def test_the_run_file_in_the_readme_is_one(tmp_path):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    run = load(tmp_path, readme.split("```toml\n")[1].split("```")[0])
    assert run.data.mixture["en"].downsample == 0.05 and run.data.phases[0].start_iteration == 5000


@pytest.mark.parametrize("size", ["0.6b", "1.7b", "4b", "8b"])
def test_the_fine_tuning_of_each_size_has_lmts_hyper_parameters(size):
    """arXiv 2511.07003 v2, table 5."""
    run = load_run(REPOSITORY / f"examples/lmt60/qwen3_{size}_sft.toml")
    optimizer = run.optimizer
    assert (optimizer.lr, optimizer.adam_beta1, optimizer.adam_beta2, optimizer.weight_decay) == (2e-5, 0.9, 0.999, 0.01)
    assert (optimizer.lr_decay_style, run.train_iters, run.lr_warmup_iters, run.data.seq_length) == ("cosine", 500, 5, 1024)
    assert run.data.mixture["sft"].directions == directions("all") and run.data.packing == "documents"
    assert run.train.global_batch_size % (run.train.micro_batch_size * 16) == 0  # on 16 GPUs
