"""How much of a GPU's memory a run takes: an estimate before anything starts, from sizes alone.

Counted is training with Transformer Engine in bf16, or in fp32 where the run file says so: parameters, fp32 gradients, fp32
parameters (of bf16 ones) and Adam's two moments divided over the data-parallel ranks, what the layers keep for the backward
pass (after Korthikanti et al. 2022, with gated MLP, grouped queries and flash attention), one copy of the logits and its
gradient, or what a save gathers when these two are free again, and a fixed part for the CUDA context, NCCL's buffers and
what the allocator wastes. FP8 is counted as bf16: its copies of the weights cost about what its smaller activations save.
Nobody has compared it with a GPU yet; take 10 % as its error.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_lmt.config import ParallelSection, RunConfig
from megatron_lmt.model.shape import ModelShape

GB = 1e9
FIXED_BYTES = 4 * GB
BUCKET_SIZE, BUCKET_SIZE_OF_EACH_RANK = 40_000_000, 1_000_000
"""megatron-core's defaults: parameters in a bucket of gradients, the larger of the two counts."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the fullest rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    saving: float
    fixed: float = FIXED_BYTES

    @property
    def total(self) -> float:
        passing = max(self.activations + self.logits, self.saving)
        return self.parameters + self.gradients + self.optimizer + passing + self.fixed

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "activations", "logits")
        listed = ", ".join(f"{name} {getattr(self, name) / GB:.1f}" for name in parts)
        return f"{self.total / GB:.0f} GB ({listed} or saving {self.saving / GB:.1f}, fixed {self.fixed / GB:.0f})"


def estimate_memory(run: RunConfig, shape: ModelShape, world_size: int) -> MemoryEstimate:
    """The memory of the fullest rank: one of the first pipeline stage, with the most activations, or of the last."""
    stages = {0, run.parallel.pipeline_model_parallel_size - 1}
    return max((stage_memory(run, shape, world_size, stage) for stage in stages), key=lambda estimate: estimate.total)


def stage_memory(run: RunConfig, shape: ModelShape, world_size: int, stage: int) -> MemoryEstimate:
    parallel = run.parallel
    tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    element, optimizer = (4, 8) if run.train.bf16 is False else (2, 12)
    parameters = stage_parameters(shape, parallel, stage)
    tokens = run.train.micro_batch_size * run.data.seq_length / parallel.context_parallel_size
    # of micro batches whose backward pass is still to come the first stage has the most
    in_flight = pipeline - stage
    if parallel.virtual_pipeline_model_parallel_size and stage == 0:
        in_flight *= 1 + (pipeline - 1) / (pipeline * parallel.virtual_pipeline_model_parallel_size)
    kept = _kept_by_layers(shape, parallel, layers_of_stage(shape.num_hidden_layers, parallel, stage)) * in_flight
    return MemoryEstimate(
        parameters=element * parameters,
        gradients=4 * parameters,
        optimizer=optimizer * parameters / (world_size // (tensor * pipeline)),
        activations=element * tokens * (kept + (shape.hidden_size if stage == 0 else 0)),
        logits=2 * element * tokens * shape.vocab_size / tensor if stage == pipeline - 1 else 0,
        saving=_gathered_by_a_save(shape, parallel, stage, world_size // (tensor * pipeline)),
    )


def _gathered_by_a_save(shape: ModelShape, parallel: ParallelSection, stage: int, ranks: int) -> float:
    """Bytes on the GPU, with which megatron-core makes optimizer state whole before it goes to the CPU.

    In the fully reshardable format each rank gathers one of fp32 parameters, first and second moments at a time, bucket by
    bucket: from its own share, into a tensor for each rank, through a flat one of the same size that torch's NCCL makes.

    Args:
        ranks: that divide the optimizer state.
    """
    return 4 * largest_bucket(shape, parallel, stage, ranks // parallel.context_parallel_size) * (2 + 1 / ranks)


def largest_bucket(shape: ModelShape, parallel: ParallelSection, stage: int, data_parallel: int) -> int:
    """At most so many parameters are in one bucket of gradients.

    megatron-core makes buckets only on the first pipeline rank, in its first virtual stage, and only for overlap with the
    backward pass; anything else is one bucket.
    """
    others = (parallel.virtual_pipeline_model_parallel_size or 1) - 1
    layers = layers_of_stage(shape.num_hidden_layers, parallel, stage) // (others + 1)
    in_layers = layers * layer_parameters(shape, parallel)
    largest_virtual_stage = stage_parameters(shape, parallel, stage) - others * in_layers
    if stage > 0 or parallel.overlap_grad_reduce is False:
        return largest_virtual_stage
    up_and_gate = 2 * shape.intermediate_size * shape.hidden_size // parallel.tensor_model_parallel_size
    # a bucket is closed by the parameter that fills it
    full = max(BUCKET_SIZE, BUCKET_SIZE_OF_EACH_RANK * data_parallel)
    in_first = min(full + max(vocabulary_parameters(shape, parallel), up_and_gate), largest_virtual_stage)
    return max(in_first, in_layers) if others else in_first


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
    pipeline, vocabulary = parallel.pipeline_model_parallel_size, vocabulary_parameters(shape, parallel)
    count = layers_of_stage(shape.num_hidden_layers, parallel, stage) * layer_parameters(shape, parallel)
    if stage == 0:
        count += vocabulary
    if stage == pipeline - 1:
        # a tied matrix is there once, unless the embedding is on another stage
        count += shape.hidden_size + (0 if shape.tie_word_embeddings and pipeline == 1 else vocabulary)
    return count


def layer_parameters(shape: ModelShape, parallel: ParallelSection) -> int:
    heads = shape.head_dim * 2 * (shape.num_attention_heads + shape.num_key_value_heads)
    matrices = shape.hidden_size * (heads + 3 * shape.intermediate_size) // parallel.tensor_model_parallel_size
    return matrices + 2 * shape.hidden_size + (2 * shape.head_dim if shape.has_qk_norm else 0)


def vocabulary_parameters(shape: ModelShape, parallel: ParallelSection) -> int:
    """Of the embedding, or of the output layer."""
    return -(-shape.vocab_size // parallel.tensor_model_parallel_size) * shape.hidden_size


def _kept_by_layers(shape: ModelShape, parallel: ParallelSection, layers: int) -> float:
    """Elements for each token that the layers of a rank keep for the backward pass."""
    tensor = parallel.tensor_model_parallel_size
    between = shape.hidden_size / (tensor if parallel.sequence_parallel else 1)  # one tensor between layers
    query, key = shape.num_attention_heads * shape.head_dim / tensor, shape.num_key_value_heads * shape.head_dim / tensor
    norms = 2 * between  # inputs of both norms
    normed = 2 * between  # inputs of the two matrices behind them
    attention = query + 2 * key + query  # query, key, value after the rotary embedding, and the result
    if shape.has_qk_norm:
        attention += query + key  # inputs of the norms on queries and keys
    mlp = 3 * shape.intermediate_size / tensor  # gate, up, and their product
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
