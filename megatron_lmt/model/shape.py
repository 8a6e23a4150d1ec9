"""The shape of a Qwen3 or Llama 3 model, read from a Hugging Face config.json and checked field by field.

What the trainer cannot represent is an error that names the field, before anything starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_lmt.errors import ConfigError

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""model_type → transformers' class. Llama has no norm on queries and keys, and may scale its rotary embedding."""

MUST_BE = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "attention_dropout": (0.0, 0.0),
    "use_sliding_window": (False, False),
}
"""Field → (the one value that is supported, the value transformers assumes where the field is absent)."""

LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What megatron-core's scaled rotary embedding is built for: Llama 3.1, 3.2 and 3.3; only `factor` differs among them."""

SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size".split()


@dataclass(frozen=True)
class ModelShape:
    """Hugging Face's names. `vocab_size` is the number of rows of the embedding, without any padding.

    `rope_scaling_factor` is the factor of Llama 3's scaled rotary embedding; None where it is not scaled.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling_factor: float | None
    tie_word_embeddings: bool
    initializer_range: float

    @property
    def architecture(self) -> str:
        return ARCHITECTURES[self.model_type]

    @property
    def has_qk_norm(self) -> bool:
        return self.model_type == "qwen3"

    @property
    def num_matmul_parameters(self) -> int:
        """Parameters that multiply every token, the output layer included and the embedding look-up not."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        head_norms = 2 * self.head_dim if self.has_qk_norm else 0
        norms = self.num_hidden_layers * (2 * self.hidden_size + head_norms) + self.hidden_size
        embedding = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return self.num_matmul_parameters + norms + embedding

    def to_dict(self) -> dict:
        return asdict(self)


def config_file(path: Path) -> Path:
    """The config.json that `path` names, itself or inside a folder."""
    return path / "config.json" if path.is_dir() else path


def read_shape(path: Path) -> ModelShape:
    """Read and check a config.json.

    Args:
        path: the file, or the folder that holds it.
    Raises:
        ConfigError: no such file, neither Qwen3 nor Llama, or fields the trainer cannot represent (all of them are listed).
    """
    file = config_file(path)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; model.hf_config names a config.json or the folder with it") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: not JSON ({error})") from None
    problems = [f"{file}: {problem}" for problem in _unsupported(config)]
    if problems:
        raise ConfigError(problems)
    rope = _rope(config)
    # absent in a Llama's config.json it is hidden_size / heads; in a Qwen3's it is 128, as in transformers
    head_dim = 128 if config["model_type"] == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return ModelShape(
        model_type=config["model_type"],
        **{field: config[field] for field in SIZES},
        head_dim=config.get("head_dim") or head_dim,
        max_position_embeddings=config.get("max_position_embeddings", 32768),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope["rope_theta"]),
        rope_scaling_factor=float(rope["factor"]) if rope["rope_type"] == "llama3" else None,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        initializer_range=config.get("initializer_range", 0.02),
    )


def _rope(config: dict) -> dict:
    """The rotary embedding's settings: `rope_parameters` in transformers 5, before it rope_theta and rope_scaling."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    return {"rope_type": settings.get("type", "default"), **theta, **settings}


def _unsupported(config: dict) -> list[str]:
    """What the trainer cannot represent, as messages."""
    model_type, rope = config.get("model_type"), _rope(config)
    problems = []
    if model_type not in ARCHITECTURES:
        problems.append(f"model_type = {model_type!r}, but only {' and '.join(map(repr, ARCHITECTURES))} are supported")
    problems += [
        f"{field} = {config.get(field, default)!r}, but only {supported!r} is supported"
        for field, (supported, default) in MUST_BE.items()
        if config.get(field, default) != supported
    ]
    problems += [f"{field} is missing" for field in SIZES if field not in config]
    if "rope_theta" not in rope:
        problems.append("neither rope_theta nor rope_parameters.rope_theta is there")
    if rope["rope_type"] not in ("default", "llama3"):
        problems.append(f"rope_type = {rope['rope_type']!r}, but only 'default' and 'llama3' are supported")
    elif rope["rope_type"] == "llama3":
        problems += [
            f"rope scaling: {field} = {rope.get(field)!r}, but only {supported} is supported"
            for field, supported in LLAMA3_ROPE.items()
            if rope.get(field) != supported
        ]
        if "factor" not in rope:
            problems.append("rope scaling: factor is missing")
    return problems


def check_parallel(
    shape: ModelShape, tensor: int, pipeline: int, virtual: int = 1, first: int | None = None, last: int | None = None
) -> list[str]:
    """Problems of splitting this shape over `tensor` × `pipeline` ranks, as messages; empty if there are none.

    Args:
        virtual: parts on each pipeline rank.
        first, last: layers of the first and the last pipeline stage; None shares equally.
    """
    problems = []
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(shape, field) % tensor:
            problems.append(
                f"parallel.tensor_model_parallel_size = {tensor} does not divide {field} = {getattr(shape, field)}"
            )
    given = [count for count in (first, last) if count is not None]
    left, stages = shape.num_hidden_layers - sum(given), pipeline - len(given)
    if left != 0 if stages == 0 else left <= 0 or left % (stages * virtual):
        problems.append(
            f"parallel.pipeline_model_parallel_size = {pipeline} does not divide "
            f"num_hidden_layers = {shape.num_hidden_layers}"
            + (f" less {given} of the first or last stage" if given else "")
            + (f" with virtual_pipeline_model_parallel_size = {virtual}" if virtual > 1 else "")
        )
    problems += [
        f"parallel.virtual_pipeline_model_parallel_size = {virtual} does not divide the {count} layers of the first or "
        "last pipeline stage"
        for count in given
        if count % virtual
    ]
    return problems
