"""What a run asks of the machine that trains it: FP8 and what else only works on a GPU.

megatron-core accepts such settings anywhere and ignores them, or fails in the middle of a step; here they are refused
first, with all reasons. Nothing here needs torch: `runtime/device.py` finds out what the machine is.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_lmt.config import RunConfig
from megatron_lmt.errors import MissingExtraError
from megatron_lmt.model.shape import ModelShape

FP8_MULTIPLE = {"tensorwise": 16, "delayed": 16, "blockwise": 128}
"""Recipe → what both sides of every matrix must be a multiple of."""
FP8_TRANSFORMER_ENGINE = {"tensorwise": (2, 2), "delayed": (2, 1), "blockwise": (2, 3)}
"""Recipe → the first version of Transformer Engine that megatron-core takes it from."""
HOPPER = (9, 0)
BLOCKWISE_CUDA = (12, 9)


@dataclass(frozen=True)
class Machine:
    """`gpu_capability`, `transformer_engine` and `cuda` are versions; None where there is none."""

    gpu_capability: tuple[int, int] | None
    transformer_engine: tuple[int, ...] | None
    cuda: tuple[int, ...] | None


def machine_problems(run: RunConfig, shape: ModelShape | None, machine: Machine | None) -> list[str]:
    """Why this run cannot work, as messages; empty if it can.

    Args:
        shape: None if config.json is wrong.
        machine: that is to train; None where it is another one than this, as in a dry run.
    """
    problems = []
    if "layernorm" in (run.parallel.recompute_modules or ()) and machine and not machine.gpu_capability:
        problems.append('parallel.recompute_modules: "layernorm" needs a GPU with Transformer Engine; leave it out here')
    if run.fp8 is None:
        if machine and machine.gpu_capability and not machine.transformer_engine:
            problems += MissingExtraError("transformer-engine", "gpu", "training on a GPU").problems
        return problems
    if run.train.bf16 is False:
        problems.append("[fp8] with train.bf16 = false: FP8 is for bf16 training; leave train.bf16 out or set it true")
    if shape:
        problems += _dimension_problems(run, shape)
    return problems + (_fp8_machine_problems(run.fp8.recipe, machine) if machine else [])


def _dimension_problems(run: RunConfig, shape: ModelShape) -> list[str]:
    recipe, tensor = run.fp8.recipe, run.parallel.tensor_model_parallel_size
    multiple = FP8_MULTIPLE[recipe]
    heads, groups = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    sides = {
        "hidden_size": shape.hidden_size,
        f"intermediate_size / tensor_model_parallel_size ({tensor})": shape.intermediate_size / tensor,
        f"num_attention_heads · head_dim / tensor_model_parallel_size ({tensor})": heads / tensor,
        f"(num_attention_heads + 2 · num_key_value_heads) · head_dim / {tensor}": (heads + 2 * groups) / tensor,
    }
    if run.parallel.context_parallel_size == 1:  # otherwise rows are padded to a multiple
        sides["micro_batch_size · seq_length"] = run.train.micro_batch_size * run.data.seq_length
    return [
        f"[fp8] recipe = {recipe!r}: {name} = {value:g} is not a multiple of {multiple}"
        for name, value in sides.items()
        if value % multiple
    ]


def _fp8_machine_problems(recipe: str, machine: Machine) -> list[str]:
    problems = []
    capability, engine, cuda = machine.gpu_capability, machine.transformer_engine, machine.cuda
    if capability is None:
        problems.append("[fp8]: there is no GPU here; take the section out for a rehearsal on a CPU")
    elif capability < HOPPER:
        problems.append(f"[fp8]: this GPU has compute capability {_dotted(capability)}; FP8 training needs 9.0 (H100)")
    if engine is None:
        problems.append("[fp8]: Transformer Engine is not installed: pip install --no-build-isolation -e '.[gpu]'")
    elif engine[:2] < FP8_TRANSFORMER_ENGINE[recipe]:
        needed = _dotted(FP8_TRANSFORMER_ENGINE[recipe])
        problems.append(f"[fp8] recipe = {recipe!r} needs Transformer Engine {needed}; there is {_dotted(engine)}")
    if recipe == "blockwise" and cuda is not None and cuda[:2] < BLOCKWISE_CUDA:
        problems.append(f"[fp8] recipe = 'blockwise' needs CUDA {_dotted(BLOCKWISE_CUDA)}; torch has {_dotted(cuda)}")
    return problems


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def version_numbers(version: str) -> tuple[int, ...]:
    """ "2.11.0+abc" → (2, 11, 0)."""
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())
