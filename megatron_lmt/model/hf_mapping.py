"""One table between megatron-core's parameters and Hugging Face's tensors of Qwen3 and Llama, read in both directions.

Megatron fuses query, key and value into one matrix, and gate and up into another, and splits matrices over
tensor-parallel ranks by rows or by columns. Training reads one rank's part of a parameter with it (`hf_slices.py`),
conversion whole ones (`conversion/pieces.py`). No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from megatron_lmt.model.shape import ModelShape


class Layout(Enum):
    """How the Hugging Face tensors of one parameter are joined and split over tensor-parallel ranks."""

    WHOLE = "one tensor, the same on every rank"
    COLUMNS = "one matrix, columns split"
    VOCABULARY = "one matrix, rows split after padding to a multiple of the ranks"
    QKV = "query, key and value by groups of heads: the queries of a group, its key, its value; groups split"
    GATE_UP = "gate and up one above the other; the rows of each split"

    @property
    def split_dimension(self) -> int | None:
        """The dimension that is divided among the ranks; None where each has the whole."""
        return {Layout.WHOLE: None, Layout.COLUMNS: 1}.get(self, 0)


@dataclass(frozen=True)
class Mapping:
    """One Megatron parameter (`{n}` is the layer, from 0) and the Hugging Face tensors it is made of."""

    megatron: str
    hf: tuple[str, ...]
    layout: Layout


LAYER = (
    ("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm.weight",), Layout.WHOLE),
    (
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        Layout.QKV,
    ),
    ("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",), Layout.WHOLE),
    ("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",), Layout.WHOLE),
    ("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), Layout.COLUMNS),
    ("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm.weight",), Layout.WHOLE),
    ("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), Layout.GATE_UP),
    ("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), Layout.COLUMNS),
)

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EMBEDDING_PARAMETER, HEAD_PARAMETER = "embedding.word_embeddings.weight", "output_layer.weight"
QK_NORMS = ("self_attention.q_layernorm.weight", "self_attention.k_layernorm.weight")

TORCH_LAYER_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}
"""Parameters that the torch layers of the CPU name otherwise than Transformer Engine's, whose names are used here."""


def mappings(shape: ModelShape) -> Iterator[Mapping]:
    """Every parameter of the model, each once. A tied output layer is not a parameter of its own."""
    yield Mapping(EMBEDDING_PARAMETER, (EMBEDDING,), Layout.VOCABULARY)
    for n in range(shape.num_hidden_layers):
        for megatron, hf, layout in LAYER:
            if megatron in QK_NORMS and not shape.has_qk_norm:
                continue
            yield Mapping(f"decoder.layers.{n}.{megatron}", tuple(f"model.layers.{n}.{name}" for name in hf), layout)
    yield Mapping("decoder.final_layernorm.weight", ("model.norm.weight",), Layout.WHOLE)
    if not shape.tie_word_embeddings:
        yield Mapping(HEAD_PARAMETER, (HEAD,), Layout.VOCABULARY)


def hf_tensor_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of the Hugging Face model."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    by_suffix = {
        "q_proj.weight": (query, hidden),
        "k_proj.weight": (key, hidden),
        "v_proj.weight": (key, hidden),
        "o_proj.weight": (hidden, query),
        "q_norm.weight": (shape.head_dim,),
        "k_norm.weight": (shape.head_dim,),
        "gate_proj.weight": (ffn, hidden),
        "up_proj.weight": (ffn, hidden),
        "down_proj.weight": (hidden, ffn),
        "layernorm.weight": (hidden,),
        "model.norm.weight": (hidden,),
        "embed_tokens.weight": (shape.vocab_size, hidden),
        "lm_head.weight": (shape.vocab_size, hidden),
    }
    names = [name for mapping in mappings(shape) for name in mapping.hf]
    return {name: next(size for suffix, size in by_suffix.items() if name.endswith(suffix)) for name in names}
