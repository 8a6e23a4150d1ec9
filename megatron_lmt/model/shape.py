"""The shape of a Qwen3 model, read from a Hugging Face config.json and checked field by field.

What the trainer cannot represent is an error that names the field, before anything starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_lmt.errors import ConfigError

MUST_BE = {
    "model_type": ("qwen3", "qwen3"),
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "attention_dropout": (0.0, 0.0),
    "use_sliding_window": (False, False),
    "rope_scaling": (None, None),
}
"""Field → (the one value that is supported, the value transformers assumes where the field is absent)."""

SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size".split()


@dataclass(frozen=True)
class ModelShape:
    """Hugging Face's names. `vocab_size` is the number of rows of the embedding, without any padding."""

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
    tie_word_embeddings: bool
    initializer_range: float

    @property
    def num_matmul_parameters(self) -> int:
        """Parameters that multiply every token, the output layer included and the embedding look-up not."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp) + self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        norms = self.num_hidden_layers * (2 * self.hidden_size + 2 * self.head_dim) + self.hidden_size
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
        ConfigError: no such file, not Qwen3, or fields the trainer cannot represent (all of them are listed).
    """
    file = config_file(path)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; model.hf_config names a config.json or the folder with it") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: not JSON ({error})") from None
    problems = [
        f"{file}: {field} = {config.get(field, default)!r}, but only {supported!r} is supported"
        for field, (supported, default) in MUST_BE.items()
        if config.get(field, default) != supported
    ]
    problems += [f"{file}: {field} is missing" for field in SIZES if field not in config]
    rope = config.get("rope_parameters") or {}  # transformers 5 writes these; before it was rope_theta and rope_scaling
    if rope.get("rope_type", "default") != "default":
        problems.append(f"{file}: rope_type = {rope['rope_type']!r}, but only 'default' is supported")
    rope_theta = config.get("rope_theta", rope.get("rope_theta"))
    if rope_theta is None:
        problems.append(f"{file}: neither rope_theta nor rope_parameters.rope_theta is there")
    if problems:
        raise ConfigError(problems)
    return ModelShape(
        **{field: config[field] for field in SIZES},
        head_dim=config.get("head_dim") or 128,  # transformers' default for Qwen3; never hidden_size / heads
        max_position_embeddings=config.get("max_position_embeddings", 32768),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope_theta),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        initializer_range=config.get("initializer_range", 0.02),
    )


def check_parallel(shape: ModelShape, tensor: int, pipeline: int) -> list[str]:
    """Problems of splitting this shape over `tensor` × `pipeline` ranks, as messages; empty if there are none."""
    problems = []
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(shape, field) % tensor:
            problems.append(
                f"parallel.tensor_model_parallel_size = {tensor} does not divide {field} = {getattr(shape, field)}"
            )
    if shape.num_hidden_layers % pipeline:
        problems.append(
            f"parallel.pipeline_model_parallel_size = {pipeline} does not divide "
            f"num_hidden_layers = {shape.num_hidden_layers}"
        )
    return problems
