"""What belongs to a model beside its weights: config.json, generation settings, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_lmt import __version__
from megatron_lmt.conversion.mcore_source import McoreSource
from megatron_lmt.conversion.new_folder import UNFINISHED
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import CheckpointError
from megatron_lmt.files import write_json_atomically, write_text_atomically
from megatron_lmt.model.hf_folder import copy_companions
from megatron_lmt.model.shape import ModelShape

RUN_CARD = "run_card.md"
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")
"""The ends of a turn and of a text, Qwen3's and Llama 3's."""


def check_tokenizer(folder: Path, shape: ModelShape, trained_with: str | None = None) -> None:
    """Whether the tokenizer in a folder, if there is one, fits the model.

    Args:
        trained_with: the tokenizer's identity in the run that made the checkpoint.
    Raises:
        UserError: it cannot be read, is larger than the model's vocabulary, or is another one.
    """
    kinds = {"HuggingFaceTokenizer": folder, "SentencePieceTokenizer": folder / "tokenizer.model"}
    kind = "HuggingFaceTokenizer" if (folder / "tokenizer.json").is_file() else "SentencePieceTokenizer"
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        return
    tokenizer = load_tokenizer(kind, kinds[kind])
    if tokenizer.vocab_size > shape.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, but vocab_size = {shape.vocab_size}: "
            "it is another model's"
        )
    if trained_with and trained_with.startswith(kind) and tokenizer.identity() != trained_with:
        raise CheckpointError(f"{folder}: the tokenizer is {tokenizer.identity()}, but the run had {trained_with}")


def check_text_tokenizer(folder: Path) -> None:
    """
    Raises:
        CheckpointError: no tokenizer with which text becomes the input of both models, whose logits are to be compared.
    """
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json; --verify compares logits on text and needs it")


def write_hf_files(source: Path, folder: Path, shape: ModelShape, dtype: str) -> None:
    """Everything of a Hugging Face folder but the weights, for a model of this shape.

    Args:
        source: folder with config.json and the tokenizer.
        folder: an existing folder.
    """
    copy_companions(source, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = [shape.architecture]
    # transformers 5 writes `dtype`, earlier versions `torch_dtype`
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    if config.get("tie_word_embeddings", False) != shape.tie_word_embeddings:
        config["tie_word_embeddings"] = shape.tie_word_embeddings
    write_json_atomically(folder / "config.json", config)


def write_generation_config(folder: Path, shape: ModelShape) -> None:
    """Generation ends at the end of a turn or of the text, whichever of them the vocabulary has.

    Raises:
        CheckpointError: an end token of the existing settings is not in the model's vocabulary.
    """
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = config.get("eos_token_id", [])
    ends = list(ends) if isinstance(ends, list) else [ends]
    ids = _added_tokens(folder / "tokenizer.json")
    ends += [ids[token] for token in TURN_ENDS if token in ids and ids[token] not in ends]
    if unknown := [token for token in ends if not 0 <= token < shape.vocab_size]:
        raise CheckpointError(f"{file.name}: eos_token_id {unknown}: the model has {shape.vocab_size} tokens")
    if ends:
        config["eos_token_id"] = ends
        config.setdefault("pad_token_id", ids.get("<|endoftext|>", ends[0]))
        write_json_atomically(file, config)


def write_model_card(folder: Path, checkpoint: McoreSource, shape: ModelShape, dtype: str, proof: list[str]) -> None:
    """README.md: what the model is, where it is from, the proof of its conversion, and the run card if the run has one."""
    iteration = (checkpoint.run_state or {}).get("iteration")
    origin = checkpoint.folder.name + (f", iteration {iteration:,}," if iteration is not None else "")
    head = "tied to" if shape.tie_word_embeddings else "apart from"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {folder.name.removesuffix(UNFINISHED)}",
        "",
        f"{shape.architecture}, {shape.num_parameters:,} parameters in {dtype}, "
        f"{shape.num_hidden_layers} layers, "
        f"vocabulary {shape.vocab_size:,}, output layer {head} the embedding.",
        "",
        f"Exported from {origin} by megatron_lmt {__version__}. transformers and vLLM load this folder as it is.",
    ]
    if proof:
        lines += ["", "## Conversion", "", "```", *proof, "```"]
    if (run_card := checkpoint.folder.parent.parent / RUN_CARD).is_file():
        # its headings go below this one
        body = [f"#{line}" if line.startswith("#") else line for line in run_card.read_text(encoding="utf-8").splitlines()]
        lines += ["", "## Training run", "", *body]
    write_text_atomically(folder / "README.md", "\n".join(lines) + "\n")


def _added_tokens(tokenizer_file: Path) -> dict[str, int]:
    if not tokenizer_file.is_file():
        return {}
    added = json.loads(tokenizer_file.read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in added}
