"""Qwen3 and Llama 3 on megatron-core: configuration, layer specification and the model of one pipeline stage.

On a GPU the layers are Transformer Engine's. On a CPU they are megatron-core's own, with some modules of `cpu_layers.py`.
Both give the parameters the same checkpoint keys.

`open_device` must have run before this module is imported.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_lmt.config import Fp8Section, ParallelSection
from megatron_lmt.model.cpu_layers import GatedActivation, PackedAttention, RMSNorm
from megatron_lmt.model.shape import ModelShape
from megatron_lmt.model.weights import mark_tensor_parallel
from megatron_lmt.runtime.device import Device


def transformer_config(
    shape: ModelShape, parallel: ParallelSection, device: Device, bf16: bool, fp8: Fp8Section | None
) -> TransformerConfig:
    """megatron-core's configuration of this shape. Its losses are sums over tokens, never means of means."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    return TransformerConfig(
        num_layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_key_value_heads,
        kv_channels=shape.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=shape.rms_norm_eps,
        qk_layernorm=shape.has_qk_norm,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bf16=bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        num_layers_in_first_pipeline_stage=parallel.num_layers_in_first_pipeline_stage,
        num_layers_in_last_pipeline_stage=parallel.num_layers_in_last_pipeline_stage,
        # with two ranks the batched way mixes up the micro batches of virtual stages: wrong losses and no error
        batch_p2p_comm=parallel.virtual_pipeline_model_parallel_size is None,
        overlap_p2p_comm=parallel.virtual_pipeline_model_parallel_size is not None,
        sequence_parallel=parallel.sequence_parallel,
        context_parallel_size=parallel.context_parallel_size,
        recompute_granularity=parallel.recompute_granularity,
        recompute_method=parallel.recompute_method,
        recompute_num_layers=parallel.recompute_num_layers,
        recompute_modules=parallel.recompute_modules,
        **_fp8_settings(fp8),
        calculate_per_token_loss=True,
        perform_initialization=False,  # every weight is set by model/weights.py, the same for any layout
        use_cpu_initialization=not device.is_gpu,
        apply_rope_fusion=device.is_gpu,
        bias_activation_fusion=device.is_gpu,
        use_te_activation_func=not device.is_gpu,  # there the layer's own, see layer_spec
        # Transformer Engine's writes the gradient over the logits, so that 150,000 columns of them exist once
        cross_entropy_loss_fusion=device.is_gpu,
        cross_entropy_fusion_impl="te" if device.is_gpu else "native",
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        # apex's kernel adds to the fp32 gradients where it computes them; apex is optional, built from source
        gradient_accumulation_fusion=device.is_gpu and find_spec("fused_weight_gradient_mlp_cuda") is not None,
        # gloo sends from memory that would be given back too early where sends overlap
        deallocate_pipeline_outputs=device.is_gpu or parallel.virtual_pipeline_model_parallel_size is None,
    )


def _fp8_settings(fp8: Fp8Section | None) -> dict:
    if fp8 is None:
        return {}
    # for delayed scaling, as Transformer Engine advises; the other recipes have no history
    history = {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"} if fp8.recipe == "delayed" else {}
    return {
        "fp8": fp8.format,
        "fp8_recipe": fp8.recipe,
        "fp8_param": fp8.param_gather,
        "first_last_layers_bf16": fp8.first_last_layers_bf16,
        **history,
    }


def layer_spec(config: TransformerConfig, device: Device, vp_stage: int | None) -> ModuleSpec | TransformerBlockSubmodules:
    """The modules of this pipeline stage's layers."""
    if device.is_gpu:
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    layer.mlp.submodules.activation_func = GatedActivation
    attention = layer.self_attention.submodules
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    attention.core_attention = PackedAttention
    return TransformerBlockSubmodules(layer_specs=[spec] * get_num_layers_to_build(config, vp_stage), layer_norm=RMSNorm)


class Qwen3Model(GPTModel):
    """GPTModel whose padded vocabulary rows never enter the softmax.

    The embedding has one row more than the vocabulary where tensor parallelism asks for it. megatron-core lets such rows
    take part in the softmax, which shifts the loss.
    """

    def __init__(self, *args, true_vocab_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.true_vocab_size = true_vocab_size

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Loss of each position. labels: int64 [batch, positions]; logits: [positions, batch, local vocabulary]."""
        first_row = self.pg_collection.tp.rank() * logits.size(-1)
        num_valid = min(max(self.true_vocab_size - first_row, 0), logits.size(-1))
        if num_valid < logits.size(-1):
            is_padding = torch.arange(logits.size(-1), device=logits.device) >= num_valid
            logits = logits.masked_fill(is_padding, torch.finfo(logits.dtype).min)
        return super().compute_language_model_loss(labels, logits)


def padded_vocab_size(shape: ModelShape, tensor_model_parallel_size: int) -> int:
    """Rows of the embedding: the vocabulary rounded up to a multiple of the tensor-parallel size and no further."""
    return -(-shape.vocab_size // tensor_model_parallel_size) * tensor_model_parallel_size


def build_model(
    shape: ModelShape,
    parallel: ParallelSection,
    device: Device,
    bf16: bool,
    pre_process: bool,
    post_process: bool,
    vp_stage: int | None = None,
    fp8: Fp8Section | None = None,
) -> Qwen3Model:
    """The part of the model that this rank holds, with weights not set yet.

    Args:
        pre_process: this part has the embedding.
        post_process: this part has the output layer.
        vp_stage: which of this rank's virtual pipeline stages it is; None where there are none.
    """
    config = transformer_config(shape, parallel, device, bf16, fp8)
    model = Qwen3Model(
        config=config,
        transformer_layer_spec=layer_spec(config, device, vp_stage),
        vocab_size=padded_vocab_size(shape, parallel.tensor_model_parallel_size),
        true_vocab_size=shape.vocab_size,
        max_sequence_length=shape.max_position_embeddings,
        pre_process=pre_process,
        post_process=post_process,
        share_embeddings_and_output_weights=shape.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=shape.rope_theta,
        rope_scaling=shape.rope_scaling_factor is not None,
        rope_scaling_factor=shape.rope_scaling_factor or 1.0,
        vp_stage=vp_stage,
    )
    mark_tensor_parallel(model, shape)
    return model.to(device.torch_device)


def packed_seq_params(cu_seqlens: torch.Tensor, max_seqlen: int) -> PackedSeqParams:
    """Document boundaries in megatron-core's form; see `data/loader.py` for the arguments."""
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_kv=max_seqlen,
    )
