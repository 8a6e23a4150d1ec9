"""Every field of a Hugging Face config.json: what it must be, what `shape.py` takes from it, what has no effect here.

A field that is in none of these lists is an error: an export would carry on something that the training ignored.
"""

from __future__ import annotations

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""model_type → transformers' class. Llama has no norm on queries and keys, and may scale its rotary embedding."""

SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size".split()

MUST_BE = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "attention_dropout": (0.0, 0.0),
    "use_sliding_window": (False, False),
    "partial_rotary_factor": (1.0, 1.0),
    "is_encoder_decoder": (False, False),
    "pretraining_tp": (1, 1),
    "chunk_size_feed_forward": (0, 0),
}
"""Field → (the one value that is supported, the value transformers assumes where the field is absent)."""

LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What megatron-core's scaled rotary embedding is built for: Llama 3.1, 3.2 and 3.3; only `factor` differs among them."""

TAKEN = {
    *SIZES,
    "model_type",
    "architectures",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "tie_word_embeddings",
    "initializer_range",
    "layer_types",
}
"""What `shape.py` reads."""

NO_EFFECT = {
    # tokens are the tokenizer's and the run file's business; the weights' files and train.bf16 say the dtype
    *("bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"),
    # use_sliding_window must be false, which makes these idle
    *("sliding_window", "max_window_layers"),
    # how and by what it was saved, and what transformers returns
    *("transformers_version", "_name_or_path", "_attn_implementation_autoset", "use_cache", "return_dict"),
    *("output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type"),
}
"""What changes nothing in the model; an export carries it on unchanged."""

ROPE_FIELDS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def rope_settings(config: dict) -> dict:
    """The rotary embedding's settings: `rope_parameters` in transformers 5, before it rope_theta and rope_scaling."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    return {"rope_type": settings.get("type", "default"), **theta, **settings}


def unsupported(config: dict) -> list[str]:
    """What the trainer cannot represent, as messages that name the fields."""
    model_type = config.get("model_type")
    problems = []
    if model_type not in ARCHITECTURES:
        problems.append(f"model_type = {model_type!r}, but only {' and '.join(map(repr, ARCHITECTURES))} are supported")
    elif config.get("architectures") not in (None, [ARCHITECTURES[model_type]]):
        problems.append(f"architectures = {config['architectures']!r}, but only {[ARCHITECTURES[model_type]]} is supported")
    problems += [
        f"{field} = {config.get(field, default)!r}, but only {supported!r} is supported"
        for field, (supported, default) in MUST_BE.items()
        if config.get(field, default) != supported
    ]
    problems += [f"{field} is missing" for field in SIZES if field not in config]
    problems += [
        f"{field} = {config[field]!r}, but it must be a positive whole number"
        for field in [*SIZES, "head_dim", "max_position_embeddings"]
        if config.get(field) is not None and not (type(config[field]) is int and config[field] > 0)
    ]
    layer_types = config.get("layer_types") or ["full_attention"]
    if set(layer_types) != {"full_attention"}:
        problems.append(f"layer_types has {sorted(set(layer_types))}, but only 'full_attention' is supported")
    known = {*TAKEN, *MUST_BE, *NO_EFFECT}
    problems += [
        f"{field} = {value!r} is not known to this trainer, so a model with it cannot be represented"
        for field, value in config.items()
        if field not in known and value is not None
    ]
    return problems + _unsupported_rope(rope_settings(config))


def _unsupported_rope(rope: dict) -> list[str]:
    problems = []
    known = ROPE_FIELDS | ({*LLAMA3_ROPE, "factor"} if rope["rope_type"] == "llama3" else set())
    if "rope_theta" not in rope:
        problems.append("neither rope_theta nor rope_parameters.rope_theta is there")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        problems.append(f"rope: partial_rotary_factor = {rope['partial_rotary_factor']!r}, but only 1.0 is supported")
    if rope["rope_type"] not in ("default", "llama3"):
        problems.append(f"rope_type = {rope['rope_type']!r}, but only 'default' and 'llama3' are supported")
        return problems
    if rope["rope_type"] == "llama3":
        problems += [
            f"rope scaling: {field} = {rope.get(field)!r}, but only {supported} is supported"
            for field, supported in LLAMA3_ROPE.items()
            if rope.get(field) != supported
        ]
        if "factor" not in rope:
            problems.append("rope scaling: factor is missing")
    problems += [f"rope: {field} = {rope[field]!r} is not known to this trainer" for field in rope if field not in known]
    return problems
