"""Set the weights of this rank's part of the model from Hugging Face tensors, real or random."""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes

from megatron_lmt.model.hf_mapping import TORCH_LAYER_NAMES, mappings
from megatron_lmt.model.hf_slices import TensorSource, shard_from_hf
from megatron_lmt.model.shape import ModelShape


def parameters_by_key(model: GPTModel) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters under the names of the mapping table, with layers numbered over the whole model."""
    named = {}
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.layers."):
            local_layer, rest = name.removeprefix("decoder.layers.").split(".", 1)
            layer = model.decoder.layers[int(local_layer)].layer_number - 1
            name = f"decoder.layers.{layer}.{TORCH_LAYER_NAMES.get(rest, rest)}"
        named[name] = parameter
    return named


def mark_tensor_parallel(model: GPTModel, shape: ModelShape) -> None:
    """Mark the parameters that are split over tensor-parallel ranks.

    megatron-core does it while it draws random weights, which is left out here. Without the mark it takes a split
    parameter for a copy, and leaves it out of the gradient norm on all ranks but the first.
    """
    split_dimension = {mapping.megatron: mapping.layout.split_dimension for mapping in mappings(shape)}
    for name, parameter in parameters_by_key(model).items():
        dimension = split_dimension.get(name, 0)  # only the last stage's copy of a tied embedding is not in the table
        if dimension is not None and not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dimension, stride=1)


@torch.no_grad()
def set_weights(model: GPTModel, shape: ModelShape, source: TensorSource) -> None:
    """Fill every parameter of this rank, each with just its own slices of `source`."""
    table = {mapping.megatron: mapping for mapping in mappings(shape)}
    tp_group = model.pg_collection.tp
    for name, parameter in parameters_by_key(model).items():
        if name == "output_layer.weight" and shape.tie_word_embeddings:
            name = "embedding.word_embeddings.weight"  # the last pipeline stage's own copy of the tied matrix
        shard = shard_from_hf(table[name], shape, source, tp_group.rank(), tp_group.size())
        parameter.copy_(shard)
        if hasattr(parameter, "get_high_precision_init_val"):
            # kept in FP8: the optimizer takes its fp32 copy from what Transformer Engine remembers of before the rounding
            parameter.get_high_precision_init_val().copy_(shard)
