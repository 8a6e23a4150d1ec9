"""Logits of a Hugging Face folder by transformers' own modules, a layer at a time, so that any size fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_io import FolderTensors
from megatron_lmt.model.shape import read_shape


@torch.inference_mode()
def logits_of_hf(folder: Path, texts: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """float32 [positions, vocabulary] for each text.

    Args:
        texts: int64 [positions] each.
        dtype: to compute in.
    """
    shape = read_shape(folder)
    tensors = FolderTensors(SafetensorsFolder(folder, shape))
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(config)  # it holds no weights, and must not stay without numbers
    embedding = _filled(body.embed_tokens, "model.embed_tokens.", tensors)
    hidden = [embedding(text[None]) for text in texts]
    body.embed_tokens = embedding.to("meta")
    rotary = [body.rotary_emb(states, torch.arange(len(text))[None]) for states, text in zip(hidden, texts, strict=True)]
    for number, layer in enumerate(body.layers):
        layer = _filled(layer, f"model.layers.{number}.", tensors)
        # without a mask transformers' attention is causal
        outputs = [layer(s, attention_mask=None, position_embeddings=r) for s, r in zip(hidden, rotary, strict=True)]
        hidden = [output[0] if isinstance(output, tuple) else output for output in outputs]
        layer.to("meta")
    norm, head = _filled(body.norm, "model.norm.", tensors), _filled(model.lm_head, "lm_head.", tensors)
    return [head(norm(states))[0].float() for states in hidden]


def _filled(module: torch.nn.Module, prefix: str, tensors: FolderTensors) -> torch.nn.Module:
    """A module that was made without memory, with its weights from the folder. None may be missing."""
    module = module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        parameter.copy_(tensors.rows(prefix + name, 0, parameter.shape[0]))
    return module
