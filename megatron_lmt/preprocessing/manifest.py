"""What the manifest beside token files says of how they were made."""

from __future__ import annotations

import platform
from importlib.metadata import version

import megatron_lmt
from megatron_lmt.data.tokenizer import Tokenizer
from megatron_lmt.preprocessing.recipe import Recipe


def document_counts(written: int, rejected: dict[str, int]) -> dict:
    """Every record that was read is one of these."""
    total = sum(rejected.values())
    return {"documents_read": written + total, "documents": written, "documents_rejected": total, "rejected": rejected}


def description(recipe: Recipe, tokenizer: Tokenizer) -> dict:
    """What decided the tokens, for the manifest."""
    return {
        "tokenizer": {
            "type": recipe.tokenizer_type,
            "identity": tokenizer.identity(),
            "vocab_size": tokenizer.vocab_size,
            "eod": tokenizer.eod if recipe.append_eod else None,
        },
        "append_eod": recipe.append_eod,
        "json_keys": list(recipe.json_keys),
        "loss_keys": list(recipe.loss_keys),
        "max_tokens": recipe.max_tokens,
        "max_bytes": recipe.max_bytes,
        "versions": {
            "megatron_lmt": megatron_lmt.__version__,
            "tokenizers": version("tokenizers"),
            "sentencepiece": version("sentencepiece"),
            "python": platform.python_version(),
        },
    }
