"""The shape of a Qwen3 or Llama 3 model, read from a Hugging Face config.json and checked field by field.

What the trainer cannot represent is an error that names the field, before anything starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_lmt.errors import ConfigError
from megatron_lmt.model.hf_config_fields import ARCHITECTURES, SIZES, rope_settings, unsupported


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


def read_shape(path: Path, option: str = "model.hf_config") -> ModelShape:
    """Read and check a config.json.

    Args:
        path: the file, or the folder that holds it.
        option: what the user named it with.
    Raises:
        ConfigError: no such file, neither Qwen3 nor Llama, or fields the trainer cannot represent (all of them are listed).
    """
    file = config_file(path)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; {option} names a config.json or the folder with it") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise ConfigError(f"{file}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: no description of a model, but a JSON {type(config).__name__}")
    problems = [f"{file}: {problem}" for problem in unsupported(config)]
    if problems:
        raise ConfigError(problems)
    rope = rope_settings(config)
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
