"""Logits of a checkpoint by the trainer's own model, a layer at a time, so that any size fits.

Each layer is a pipeline stage of one layer. It runs in one process, as a world of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from megatron_lmt.config import ParallelSection
from megatron_lmt.conversion.mcore_model import LAYERS, McoreModel
from megatron_lmt.log import silence_engine_warnings
from megatron_lmt.model.hf_io import tensor_of_bits
from megatron_lmt.model.shape import ModelShape
from megatron_lmt.runtime.device import Device, open_device


def logits_of_mcore(
    folder: Path, shape: ModelShape, texts: Sequence[torch.Tensor], dtype: torch.dtype
) -> list[torch.Tensor]:
    """float32 [positions, vocabulary] for each text.

    Args:
        folder: of the checkpoint itself.
        texts: int64 [positions] each.
        dtype: to compute in.
    """
    silence_engine_warnings()
    device = open_device()
    from megatron_lmt.runtime.parallel import close_process_groups, open_process_groups

    open_process_groups(ParallelSection(), device, seed=0)
    try:
        return _forward(McoreModel(folder, shape), shape, texts, dtype, device)
    finally:
        close_process_groups()


@torch.inference_mode()
def _forward(
    weights: McoreModel, shape: ModelShape, texts: Sequence[torch.Tensor], dtype: torch.dtype, device: Device
) -> list[torch.Tensor]:
    from megatron_lmt.model.qwen3 import build_model, packed_seq_params

    # the output layer of a tied model is filled from its embedding
    one_layer = replace(shape, num_hidden_layers=1, tie_word_embeddings=False)
    last = shape.num_hidden_layers - 1
    hidden: list[torch.Tensor | None] = [None] * len(texts)
    stage = None
    for layer in range(shape.num_hidden_layers):
        if layer in (0, 1, last):
            del stage  # its memory, before that of the next
            stage = build_model(one_layer, ParallelSection(), device, dtype is torch.bfloat16, layer == 0, layer == last)
        _fill(stage, weights, layer)
        for number, text in enumerate(texts):
            boundaries = torch.tensor([0, len(text)], dtype=torch.int32, device=device.torch_device)
            stage.set_input_tensor(hidden[number])
            tokens = text[None].to(device.torch_device)
            hidden[number] = stage(tokens, None, None, packed_seq_params=packed_seq_params(boundaries, len(text)))
    return [logits[0].float().cpu() for logits in hidden]


def _fill(stage: torch.nn.Module, weights: McoreModel, layer: int) -> None:
    from megatron_lmt.model.weights import parameters_by_key

    for name, parameter in parameters_by_key(stage).items():
        if name.startswith(LAYERS):
            name = f"{LAYERS}{layer}.{name.removeprefix(LAYERS).split('.', 1)[1]}"
        parameter.copy_(tensor_of_bits(weights.rows(name, 0, parameter.shape[0])))
