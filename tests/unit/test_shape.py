import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from megatron_lmt.errors import ConfigError
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import check_parallel, read_shape
from megatron_lmt.runtime.metrics import training_flops
from tests.conftest import TINY_MODEL

QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "rope_theta": 1000000, "tie_word_embeddings": False,
}  # fmt: skip


def shape_of(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_shape(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_and_parameters_are_those_of_transformers(tmp_path, tied):
    config = {**TINY_MODEL, "tie_word_embeddings": tied}
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**config))
    shape = shape_of(tmp_path, config)
    assert hf_tensor_shapes(shape) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def llama(**changes):
    tiny = {key: value for key, value in TINY_MODEL.items() if key != "head_dim"}
    tiny |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    return {**tiny, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, **changes}


def test_llama_has_no_norms_on_queries_and_keys_and_scales_its_rotary_embedding(tmp_path):
    config = LlamaConfig(**llama(), attention_bias=False)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for written in (llama(), json.loads(config.to_json_string())):  # as before transformers 5, and as since
        shape = shape_of(tmp_path, written)
        assert (shape.head_dim, shape.rope_theta, shape.rope_scaling_factor) == (8, 500000.0, 32.0)
        assert hf_tensor_shapes(shape) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_rope_scaling_other_than_llama3_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'yarn', but only"):
        shape_of(tmp_path, llama(rope_scaling={"type": "yarn", "factor": 4.0}))
    with pytest.raises(ConfigError, match="original_max_position_embeddings = 4096, but only 8192"):
        shape_of(tmp_path, llama(rope_scaling={**LLAMA3_ROPE, "original_max_position_embeddings": 4096}))


def test_both_ways_of_writing_rope_theta_are_read(tmp_path):
    saved = json.loads(Qwen3Config(**TINY_MODEL).to_json_string())
    assert shape_of(tmp_path, saved).rope_theta == shape_of(tmp_path, TINY_MODEL).rope_theta == 1e6


def test_a_head_size_that_is_not_there_is_the_one_of_transformers(tmp_path):
    without = {key: value for key, value in QWEN3_8B.items() if key != "head_dim"}
    config = {**without, "num_attention_heads": 16, "num_key_value_heads": 8}
    assert shape_of(tmp_path, config).head_dim == Qwen3Config(**config).head_dim == 128
    config = {**config, "model_type": "llama"}
    assert shape_of(tmp_path, config).head_dim == LlamaConfig(**config).head_dim == 256


def test_flops_of_8b_by_hand(tmp_path):
    shape = shape_of(tmp_path, QWEN3_8B)
    layer = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 12288
    matrices = 36 * layer + 151936 * 4096
    attention = 36 * 3 * (2 * 2 * 2048 * 2048 * 4096) // 2  # causal: half of the scores
    assert training_flops(shape, 2048, 2048 * 2048) == 6 * matrices * 2048 + attention


def test_flops_of_a_tied_model_with_packed_documents_by_hand(tmp_path):
    """4B: heads wider than the hidden size, 4 queries for each key, and an output layer that is the embedding."""
    changes = {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
    shape = shape_of(tmp_path, {**QWEN3_8B, **changes})
    query, key = 32 * 128, 8 * 128
    layer = 2560 * query + 2 * 2560 * key + query * 2560 + 3 * 2560 * 9728
    matrices = 36 * layer + 2560 * 151936  # multiplied once; looking up a row is no operation
    documents = [1000, 600, 400]
    # scores and their product with the values, 2 operations each, for every pair of positions that the mask lets through
    attention = sum(36 * 3 * 2 * 2 * query * length * length // 2 for length in documents)
    found = training_flops(shape, sum(documents), sum(length * length for length in documents))
    assert found == 6 * matrices * 2000 + attention


def test_missing_and_unsupported_fields_are_all_named(tmp_path):
    config = {"model_type": "qwen3_moe", "hidden_size": 8, "attention_bias": True, "use_sliding_window": True}
    with pytest.raises(ConfigError) as caught:
        shape_of(tmp_path, config)
    problems = "\n".join(caught.value.problems)
    for field in ("model_type", "attention_bias", "use_sliding_window", "vocab_size is missing", "rope_theta"):
        assert field in problems


def test_layouts_that_do_not_divide_the_model(tmp_path):
    shape = shape_of(tmp_path, QWEN3_8B)
    assert check_parallel(shape, 8, 4) == []
    assert len(check_parallel(shape, 16, 5)) == 2  # 8 key-value heads, 36 layers


@pytest.mark.parametrize(
    ("pipeline", "virtual", "first", "last", "fits"),
    [
        (4, 3, None, None, True),
        (4, 2, None, None, False),  # 36 layers in 8 parts
        (4, 1, 8, 10, True),  # 9 on each of the others
        (4, 1, 9, 8, False),
        (2, 1, 20, 16, True),
        (2, 1, 20, 17, False),
        (2, 1, 36, None, False),  # none left for the second
        (4, 3, 9, None, True),
        (4, 2, 9, 9, False),  # 9 layers in two parts
    ],
)
def test_uneven_and_virtual_pipeline_splits(tmp_path, pipeline, virtual, first, last, fits):
    problems = check_parallel(shape_of(tmp_path, QWEN3_8B), 1, pipeline, virtual, first, last)
    assert (problems == []) == fits, problems


@pytest.mark.parametrize("config", [Qwen3Config(**TINY_MODEL), LlamaConfig(**llama())], ids=["qwen3", "llama"])
def test_all_that_transformers_writes_is_known(tmp_path, config):
    assert shape_of(tmp_path, json.loads(config.to_json_string(use_diff=False))).vocab_size == 701
    config.save_pretrained(tmp_path)
    assert read_shape(tmp_path).vocab_size == 701


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not known"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "architectures = ['Qwen3ForSequenceClassification'], but"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, but only 1.0"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "factor": 2.0}}, "rope: factor = 2.0 is not known"),
        ({"hidden_size": "32"}, "hidden_size = '32', but it must be a positive whole number"),
        ({"num_experts": 8}, "num_experts = 8 is not known"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1, but only 0.0"),
    ],
)
def test_a_field_that_cannot_be_represented_is_named(tmp_path, change, problem):
    with pytest.raises(ConfigError) as caught:
        shape_of(tmp_path, {**TINY_MODEL, **change})
    assert any(problem in line for line in caught.value.problems), caught.value.problems
