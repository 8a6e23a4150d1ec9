"""How a record becomes tokens: the options of preprocess_data.py that decide what is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.data.indexed import CONTEXT, LOSS


@dataclass(frozen=True)
class Recipe:
    """How a record becomes tokens.

    One key: its text is one sequence, every token of which is predicted, and special tokens in it are plain text. With
    `loss_keys`: each key is a sequence, only those in `loss_keys` are predicted, and special tokens are recognised,
    since such records are rendered chats. `append_eod` ends the last sequence with the end-of-document token. Documents
    of more than `max_tokens`, their end included, and lines or texts of more than `max_bytes` are bad records; the latter
    bounds the memory that a worker needs.
    """

    tokenizer_type: str
    tokenizer_model: Path
    json_keys: tuple[str, ...] = ("text",)
    loss_keys: tuple[str, ...] = ()
    append_eod: bool = True
    max_tokens: int | None = None
    max_bytes: int = 8_000_000

    def problems(self) -> list[str]:
        unknown = [key for key in self.loss_keys if key not in self.json_keys]
        if unknown:
            return [f"--loss-keys {unknown}: not among --json-keys {list(self.json_keys)}"]
        if len(self.json_keys) > 1 and not self.loss_keys:
            return [f"--json-keys {list(self.json_keys)}: with several keys, name those to learn in --loss-keys"]
        if self.max_tokens is not None and self.max_tokens < 1:
            return [f"--max-tokens {self.max_tokens}: at least 1"]
        if self.max_bytes < 1:
            return [f"--max-document-bytes {self.max_bytes}: at least 1"]
        return []

    @property
    def modes(self) -> list[int] | None:
        """LOSS or CONTEXT for each key; None where everything is predicted."""
        return [LOSS if key in self.loss_keys else CONTEXT for key in self.json_keys] if self.loss_keys else None

    @property
    def recognises_special(self) -> bool:
        """Whether text such as `<|im_start|>` becomes that token."""
        return bool(self.loss_keys)
