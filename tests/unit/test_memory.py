"""The estimate of a GPU's memory, against counts by hand, and the released run files of continued pre-training."""

import json
from dataclasses import replace

import pytest

from megatron_lmt.config import ParallelSection, load_run
from megatron_lmt.model.memory import FIXED_BYTES, estimate_memory, stage_memory, stage_parameters
from megatron_lmt.model.shape import check_parallel, read_shape
from tests.conftest import REPOSITORY
from tests.unit.test_config import RUN, load

COMMON = {
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rope_theta": 1000000,
    "max_position_embeddings": 32768,
}
QWEN3 = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
QWEN3 = {size: {**COMMON, **shape, "tie_word_embeddings": size != "8B"} for size, shape in QWEN3.items()}
PARAMETERS = {"0.6B": 596_049_920, "1.7B": 1_720_574_976, "4B": 4_022_468_096, "8B": 8_190_735_360}


@pytest.fixture(params=QWEN3)
def size(request):
    return request.param


@pytest.fixture
def shape(tmp_path, size):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3[size]))
    return read_shape(tmp_path)


def test_sizes_are_those_of_the_released_models(shape, size):
    assert shape.num_parameters == PARAMETERS[size] == stage_parameters(shape, ParallelSection(), 0)


def test_stages_hold_the_whole_model_and_a_tied_matrix_twice(shape):
    parallel = ParallelSection(pipeline_model_parallel_size=3, num_layers_in_last_pipeline_stage=4)
    stages = sum(stage_parameters(shape, parallel, stage) for stage in range(3))
    copied = shape.vocab_size * shape.hidden_size if shape.tie_word_embeddings else 0
    assert stages == shape.num_parameters + copied


def estimate(tmp_path, shape, world_size=8, stage=None, **parallel):
    """Of the fullest rank, or of those of a stage."""
    run = load(tmp_path, RUN, "train.micro_batch_size=2").model_copy(update={"parallel": ParallelSection(**parallel)})
    return estimate_memory(run, shape, world_size) if stage is None else stage_memory(run, shape, world_size, stage)


def test_weights_gradients_and_optimizer_of_one_gpu_are_18_bytes_a_parameter(tmp_path, shape):
    one, many = estimate(tmp_path, shape, 1), estimate(tmp_path, shape, 64)
    assert one.parameters + one.gradients + one.optimizer == 18 * shape.num_parameters
    assert many.optimizer == one.optimizer / 64 and many.gradients == one.gradients
    fp32 = estimate_memory(load(tmp_path, RUN, "train.bf16=false", "train.micro_batch_size=2"), shape, 1)
    assert fp32.parameters + fp32.gradients + fp32.optimizer == 16 * shape.num_parameters
    assert (fp32.activations, fp32.logits) == (2 * one.activations, 2 * one.logits)


def test_activations_by_hand(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3["8B"]))
    shape = read_shape(tmp_path)
    # of a token in each layer, in elements: norm inputs and outputs, q k v and result, inputs of the q and k norm, MLP
    layer = 4 * 4096 + (4096 + 2 * 1024 + 4096) + (4096 + 1024) + 3 * 12288
    found = estimate(tmp_path, shape)
    assert found.activations == 2 * 4096 * (36 * layer + 4096) and found.logits == 4 * 4096 * 151936
    assert found.fixed == FIXED_BYTES
    divided = estimate(tmp_path, shape, tensor_model_parallel_size=2, sequence_parallel=True)
    assert divided.activations == pytest.approx(found.activations / 2, rel=0.02)
    uniform = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    assert estimate(tmp_path, shape, **uniform).activations == 2 * 4096 * (36 * 4096 + layer + 4096)
    assert estimate(tmp_path, shape, context_parallel_size=2).activations == found.activations / 2
    # the first of four stages keeps a quarter of the layers for four micro batches
    assert estimate(tmp_path, shape, stage=0, pipeline_model_parallel_size=4).activations == found.activations
    # and the last for one, without an embedding
    assert estimate(tmp_path, shape, stage=3, pipeline_model_parallel_size=4).activations == 2 * 4096 * 9 * layer
    assert estimate(tmp_path, replace(shape, model_type="llama")).activations < found.activations


def test_what_a_save_gathers_by_hand(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3["8B"]))
    shape = read_shape(tmp_path)
    on_each_of_two = 36 * (4096 * (256 * (32 + 8) + 3 * 12288) // 2 + 2 * 4096 + 2 * 128) + 4096 * (151936 + 1)
    # everything is one bucket, of which each of four ranks has a quarter: the gathered, its flat copy, and the quarter
    whole = estimate(tmp_path, shape, tensor_model_parallel_size=2, overlap_grad_reduce=False)
    assert whole.saving == 4 * on_each_of_two * 2.25
    assert whole.total == whole.parameters + whole.gradients + whole.optimizer + whole.saving + FIXED_BYTES
    # with overlap, the embedding closes the largest bucket
    small = estimate(tmp_path, shape, tensor_model_parallel_size=2)
    assert small.saving == 4 * (40_000_000 + 4096 * 151936 // 2) * 2.25
    assert small.total == whole.total - whole.saving + small.activations + small.logits
    assert estimate(tmp_path, shape, 128).saving == 4 * (128_000_000 + 4096 * 151936) * (2 + 1 / 128)
    # the first stage alone has buckets, and there the first virtual stage
    stages = [
        estimate(tmp_path, shape, stage=stage, pipeline_model_parallel_size=3, virtual_pipeline_model_parallel_size=3)
        for stage in range(3)
    ]
    layer = (on_each_of_two - 4096 * 151937) // 36 + 4096 * (256 * (32 + 8) + 3 * 12288) // 2
    of_stages = [4 * parameters * (2 + 1 / 2) for parameters in (4096 * 151936 + 40_000_000, 4 * layer)]
    assert [stage.saving for stage in stages[:2]] == [max(of_stages), of_stages[1]]
    assert stages[2].saving == 4 * (4 * layer + 4096 * (151936 + 1)) * 2.5


@pytest.mark.parametrize("gpus", [8, 64])
def test_released_run_files_are_lmts_recipe_and_fit(shape, size, gpus):
    run = load_run(REPOSITORY / f"examples/lmt60/qwen3_{size.lower()}_cpt_{gpus}xh100.toml")
    o, train = run.optimizer, run.train
    assert (o.lr, o.min_lr, o.lr_decay_style, o.lr_warmup_fraction, o.clip_grad) == (2e-5, 0.0, "cosine", 0.05, 1.0)
    assert (o.weight_decay, o.adam_beta1, o.adam_beta2) == (0.01, 0.9, 0.999)
    assert (train.global_batch_size, run.data.seq_length, train.train_tokens) == (1536, 2048, 90_000_000_000)
    assert run.model.hf_config.name == f"Qwen3-{size}-Base"
    parallel = run.parallel
    assert check_parallel(shape, parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size) == []
    ranks = gpus // parallel.model_parallel_size
    assert gpus % parallel.model_parallel_size == 0 and 1536 % (ranks * train.micro_batch_size) == 0
    estimate = estimate_memory(run, shape, gpus)
    assert estimate.total < 80e9
    text = (REPOSITORY / f"examples/lmt60/qwen3_{size.lower()}_cpt_{gpus}xh100.toml").read_text()
    assert f"# {estimate.total / 1e9:.0f} GB of each GPU's 80" in text and f"on {gpus} H100s" in text
