"""Set the weights of this rank's part of the model from Hugging Face tensors, real or random."""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_lmt.model.hf_mapping import TORCH_LAYER_NAMES, TensorSource, mappings, shard_from_hf
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
