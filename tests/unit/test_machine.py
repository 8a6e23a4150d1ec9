"""FP8 is refused with all reasons where it cannot work."""

import pytest

from megatron_lmt.machine import Machine, machine_problems, version_numbers
from megatron_lmt.runtime.device import find_machine
from tests.unit.test_config import RUN, load
from tests.unit.test_shape import QWEN3_8B, shape_of

H100 = Machine((9, 0), (2, 11, 0), (13, 0))
LAPTOP = Machine(None, None, None)


def problems(tmp_path, machine, *overrides, **shape):
    run = load(tmp_path, RUN, *overrides)
    return machine_problems(run, shape_of(tmp_path, {**QWEN3_8B, **shape}), machine)


@pytest.mark.parametrize("recipe", ["tensorwise", "delayed", "blockwise"])
def test_every_recipe_is_taken_on_an_h100(tmp_path, recipe):
    assert problems(tmp_path, H100, f"fp8.recipe={recipe}", "fp8.param_gather=true") == []
    assert problems(tmp_path, None, f"fp8.recipe={recipe}") == []  # a dry run on the login node


def test_all_reasons_are_given_at_once(tmp_path):
    overrides = ("fp8={}", "train.bf16=false", "train.micro_batch_size=1", "data.seq_length=1000")
    found = "\n".join(problems(tmp_path, LAPTOP, *overrides, intermediate_size=12290))
    for reason in (
        "train.bf16 = false",
        "intermediate_size / tensor_model_parallel_size (1) = 12290 is not a multiple of 16",
        "micro_batch_size · seq_length = 1000",
        "there is no GPU here",
        "Transformer Engine is not installed: pip install",
    ):
        assert reason in found
    assert found.count("\n") == 4


def test_tensor_parallelism_makes_matrices_narrower(tmp_path):
    tensor = "parallel.tensor_model_parallel_size=8"
    assert problems(tmp_path, H100, "fp8.recipe=blockwise", tensor) == []
    (problem,) = problems(tmp_path, H100, "fp8.recipe=blockwise", tensor, intermediate_size=12352)
    assert "intermediate_size / tensor_model_parallel_size (8) = 1544 is not a multiple of 128" in problem


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine((8, 0), (2, 11), (13, 0)), "compute capability 8.0; FP8 training needs 9.0"),
        (Machine((9, 0), (2, 2, 0), (13, 0)), "'blockwise' needs Transformer Engine 2.3; there is 2.2.0"),
        (Machine((9, 0), (2, 11), (12, 8)), "'blockwise' needs CUDA 12.9; torch has 12.8"),
    ],
)
def test_what_is_too_old_is_named(tmp_path, machine, reason):
    (problem,) = problems(tmp_path, machine, "fp8.recipe=blockwise")
    assert reason in problem


def test_a_gpu_is_not_trained_on_without_transformer_engine(tmp_path):
    (problem,) = problems(tmp_path, Machine((9, 0), None, (13, 0)))
    assert "training on a GPU needs the package 'transformer-engine'" in problem
    assert problems(tmp_path, H100) == problems(tmp_path, LAPTOP) == []


def test_recomputed_norms_need_a_gpu_too(tmp_path):
    overrides = ("parallel.recompute_granularity=selective", 'parallel.recompute_modules=["layernorm"]')
    assert "needs a GPU with Transformer Engine" in problems(tmp_path, LAPTOP, *overrides)[0]
    assert problems(tmp_path, H100, *overrides) == []


def test_versions_are_numbers():
    assert version_numbers("2.11.0+c188b53") == (2, 11, 0) and version_numbers("13.0") == (13, 0)
    assert find_machine().gpu_capability is None or find_machine().cuda
