"""How much of a GPU's memory a run takes: an estimate before anything starts, from sizes alone.

Counted is training in bf16 with Transformer Engine: bf16 parameters, fp32 gradients, fp32 parameters and Adam's two moments
divided over the data-parallel ranks, what the layers keep for the backward pass (after Korthikanti et al. 2022, with gated
MLP, grouped queries and flash attention), one copy of the logits and its gradient, and a fixed part for the CUDA context,
NCCL's buffers and what the allocator wastes. FP8 is counted as bf16: its copies of the weights cost about what its smaller
activations save. Nobody has compared it with a GPU yet; take 10 % as its error.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_lmt.config import ParallelSection
from megatron_lmt.model.shape import ModelShape

GB = 1e9
FIXED_BYTES = 4 * GB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the fullest rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    fixed: float = FIXED_BYTES

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits + self.fixed

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "activations", "logits")
        listed = ", ".join(f"{name} {getattr(self, name) / GB:.1f}" for name in parts)
        return f"{self.total / GB:.0f} GB ({listed}, fixed {self.fixed / GB:.0f})"


def estimate_memory(
    shape: ModelShape, parallel: ParallelSection, micro_batch_size: int, seq_length: int, world_size: int
) -> MemoryEstimate:
    """The memory of the fullest rank: that of the first pipeline stage, with the most activations, or of the last."""
    pipeline = parallel.pipeline_model_parallel_size
    stages = [_stage(shape, parallel, micro_batch_size * seq_length, world_size, stage) for stage in {0, pipeline - 1}]
    return max(stages, key=lambda estimate: estimate.total)


def _stage(shape: ModelShape, parallel: ParallelSection, tokens: int, world_size: int, stage: int) -> MemoryEstimate:
    """
    Args:
        tokens: of one micro batch, before context parallelism divides them.
    """
    tensor, pipeline, context = (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
    )
    is_first, is_last = stage == 0, stage == pipeline - 1
    layers = layers_of_stage(shape.num_hidden_layers, parallel, stage)
    parameters = stage_parameters(shape, parallel, stage)
    tokens /= context
    # of micro batches whose backward pass is still to come the first stage has the most
    in_flight = pipeline - stage
    if parallel.virtual_pipeline_model_parallel_size and is_first:
        in_flight *= 1 + (pipeline - 1) / (pipeline * parallel.virtual_pipeline_model_parallel_size)
    kept = _kept_by_layers(shape, parallel, layers) * tokens * in_flight
    return MemoryEstimate(
        parameters=2 * parameters,
        gradients=4 * parameters,
        optimizer=12 * parameters / (world_size // (tensor * pipeline)),
        activations=kept + (2 * shape.hidden_size * tokens if is_first else 0),
        logits=4 * tokens * shape.vocab_size / tensor if is_last else 0,
    )


def layers_of_stage(layers: int, parallel: ParallelSection, stage: int) -> int:
    """Layers on one pipeline rank, all its virtual stages together."""
    pipeline = parallel.pipeline_model_parallel_size
    given = {0: parallel.num_layers_in_first_pipeline_stage, pipeline - 1: parallel.num_layers_in_last_pipeline_stage}
    given = {at: count for at, count in given.items() if count is not None}
    if stage in given:
        return given[stage]
    return (layers - sum(given.values())) // (pipeline - len(given))


def stage_parameters(shape: ModelShape, parallel: ParallelSection, stage: int) -> int:
    """Parameters on each rank of a pipeline stage; matrices are divided over the tensor-parallel ranks, norms are not."""
    tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    heads = shape.head_dim * 2 * (shape.num_attention_heads + shape.num_key_value_heads)
    matrices = shape.hidden_size * (heads + 3 * shape.intermediate_size) // tensor
    norms = 2 * shape.hidden_size + (2 * shape.head_dim if shape.has_qk_norm else 0)
    count = layers_of_stage(shape.num_hidden_layers, parallel, stage) * (matrices + norms)
    vocabulary = -(-shape.vocab_size // tensor) * shape.hidden_size
    if stage == 0:
        count += vocabulary
    if stage == pipeline - 1:
        # a tied matrix is there once, unless the embedding is on another stage
        count += shape.hidden_size + (0 if shape.tie_word_embeddings and pipeline == 1 else vocabulary)
    return count


def _kept_by_layers(shape: ModelShape, parallel: ParallelSection, layers: int) -> float:
    """Bytes for each token that the layers of a rank keep for the backward pass."""
    tensor = parallel.tensor_model_parallel_size
    between = 2 * shape.hidden_size / (tensor if parallel.sequence_parallel else 1)  # one tensor between layers, bf16
    query, key = shape.num_attention_heads * shape.head_dim / tensor, shape.num_key_value_heads * shape.head_dim / tensor
    norms = 2 * between  # inputs of both norms
    normed = 2 * between  # inputs of the two matrices behind them
    attention = 2 * (query + 2 * key) + 2 * query  # query, key, value after the rotary embedding, and the result
    if shape.has_qk_norm:
        attention += 2 * (query + key)  # inputs of the norms on queries and keys
    mlp = 2 * 3 * shape.intermediate_size / tensor  # gate, up, and their product
    modules = parallel.recompute_modules or []
    whole = norms + normed + attention + mlp
    less = (mlp if "mlp" in modules else 0) + (normed if "layernorm" in modules else 0)
    if parallel.recompute_granularity != "full":
        return layers * (whole - less)
    unit = parallel.recompute_num_layers
    if parallel.recompute_method == "block":
        recomputed = min(unit, layers)
        return recomputed * between + (layers - recomputed) * whole + whole
    return layers / unit * between + unit * whole
