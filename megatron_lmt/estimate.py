"""What a run will cost, from its run file and the model's shape alone: memory of a GPU, steps, tokens, GPU-hours, disk.

Memory is the sum of what training must hold at its peak, for bf16 or fp32 and attention that keeps no score matrix; kernels,
fragments and communication come on top, so keep a tenth free. Selective recomputation and FP8 are not taken into account.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_lmt.config import RunConfig
from megatron_lmt.model.shape import ModelShape
from megatron_lmt.runtime.retention import SpaceNeeded, space_needed

ASSUMED_TFLOPS_PER_GPU = 400.0
"""Of one H100 in bf16, 40 % of its peak. An assumption: metrics.jsonl has yours as `tflops_per_gpu`."""
LOGITS_BYTES = 10
"""Of one position and one entry of the vocabulary: bf16 and fp32 logits, and the fp32 gradient."""


@dataclass(frozen=True)
class Estimate:
    """Units are in the names; `memory_bytes` is of the rank that holds most, split into its parts."""

    num_parameters: int
    world_size: int
    data_parallel_size: int
    memory_bytes: dict[str, int]
    train_iters: int
    most_tokens: int
    gpu_hours: float
    space: SpaceNeeded

    @property
    def lines(self) -> list[str]:
        total = sum(self.memory_bytes.values())
        parts = ", ".join(f"{name} {_gigabytes(number)}" for name, number in self.memory_bytes.items())
        days = self.gpu_hours / self.world_size / 24
        return [
            f"parameters: {self.num_parameters:,}",
            f"processes: {self.world_size:,}, data parallel {self.data_parallel_size:,}",
            f"memory of a GPU: about {_gigabytes(total)} ({parts})",
            f"steps: {self.train_iters:,}; tokens: at most {self.most_tokens:,}",
            f"GPU-hours: about {self.gpu_hours:,.0f} at {ASSUMED_TFLOPS_PER_GPU:g} TFLOP/s per GPU, {days:,.1f} days on "
            f"{self.world_size:,}",
            str(self.space),
        ]


def estimate(run: RunConfig, shape: ModelShape, world_size: int) -> Estimate:
    """
    Args:
        world_size: GPUs of the real job.
    """
    data_parallel = world_size // run.parallel.model_parallel_size
    tokens = run.train_iters * run.train.global_batch_size * run.data.seq_length
    # attention is left out: packed documents are short, and it is a few percent at 2,048 positions
    flops = 6 * shape.num_matmul_parameters * tokens
    return Estimate(
        shape.num_parameters,
        world_size,
        data_parallel,
        _memory(run, shape, data_parallel),
        run.train_iters,
        tokens,
        flops / (ASSUMED_TFLOPS_PER_GPU * 1e12) / 3600,
        space_needed(run, shape),
    )


def _memory(run: RunConfig, shape: ModelShape, data_parallel: int) -> dict[str, int]:
    tensor, pipeline = run.parallel.tensor_model_parallel_size, run.parallel.pipeline_model_parallel_size
    bf16 = run.train.bf16 is not False
    parameters = _parameters_of_largest_rank(shape, tensor, pipeline)
    positions = run.train.micro_batch_size * run.data.seq_length // run.parallel.context_parallel_size
    element = 2 if bf16 else 4
    # of one position and layer, in elements: inputs of norms and matrix products, both halves of the residual; then the
    # attention's queries, keys, values and result, and the three tensors of the MLP
    hidden = 6 * shape.hidden_size / (tensor if run.parallel.sequence_parallel else 1)
    heads = 2 * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    split = (heads + 3 * shape.intermediate_size) / tensor
    # the first stage of a pipeline holds as many micro batches as there are stages, so the number of stages cancels out
    activations = positions * shape.num_hidden_layers * (hidden + split) * element
    if run.parallel.recompute_granularity == "full":
        # the input of each unit of layers, and all of one unit
        unit = run.parallel.recompute_num_layers
        activations = activations * unit / shape.num_hidden_layers + activations * hidden / 6 / (hidden + split) / unit
    return {
        "parameters": parameters * element,
        "gradients": parameters * 4,
        "optimizer": parameters * (12 if bf16 else 8) // (data_parallel * run.parallel.context_parallel_size),
        "activations": int(activations),
        "logits": positions * shape.vocab_size // tensor * LOGITS_BYTES,
    }


def _parameters_of_largest_rank(shape: ModelShape, tensor: int, pipeline: int) -> int:
    embedding = shape.vocab_size * shape.hidden_size
    tables = 1 if shape.tie_word_embeddings else 2
    layers = shape.num_parameters - tables * embedding
    # with a pipeline, the first stage has the embedding and the last the output layer; tied ones are copied there
    return (layers // pipeline + embedding * (tables if pipeline == 1 else 1)) // tensor


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
