"""Tokenizers of Hugging Face (fast ones) and SentencePiece behind one interface, with an identity that data carry.

Neither torch nor transformers is imported: a worker process of the preprocessing starts in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol

from megatron_lmt.errors import DataError

END_OF_DOCUMENT = "<|endoftext|>"


class Tokenizer(Protocol):
    """`vocab_size` is the highest id + 1; `eod` the id that ends a document, or None."""

    vocab_size: int
    eod: int | None

    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        """Token ids of each text; nothing is put before or after.

        Args:
            allow_special: text such as `<|im_start|>` becomes that token, as rendered chats need it. Otherwise it is
                text like any other, so that no corpus can smuggle in control tokens.
        """

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""

    def identity(self) -> str:
        """Names everything that decides which ids a text gets; equal on every machine."""


def load_tokenizer(tokenizer_type: str, model: Path) -> Tokenizer:
    """Open a tokenizer.

    Args:
        tokenizer_type: "HuggingFaceTokenizer" (a folder with tokenizer.json) or "SentencePieceTokenizer" (a .model file).
    Raises:
        DataError: it is not there, or not of this type.
    """
    if not Path(model).exists():
        raise DataError(f"tokenizer {model}: no such file or folder")
    return {"HuggingFaceTokenizer": HuggingFaceTokenizer, "SentencePieceTokenizer": SentencePieceTokenizer}[tokenizer_type](
        Path(model)
    )


class HuggingFaceTokenizer:
    """A fast tokenizer: a folder with tokenizer.json."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer as FastTokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(
                f"tokenizer {folder}: no tokenizer.json in it; only fast tokenizers are read "
                "(transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one)"
            )
        self._json = file.read_text(encoding="utf-8")
        try:
            # padding and truncation belong to a call, not to the vocabulary; a saved setting would cut documents
            definition = {**json.loads(self._json), "padding": None, "truncation": None}
            self._definition = json.dumps(definition, sort_keys=True, ensure_ascii=False)
            self._fast = FastTokenizer.from_str(self._definition)
        except Exception as error:  # the library raises bare Exceptions
            raise DataError(f"{file}: not a tokenizer ({error})") from None
        self.vocab_size = max(self._fast.get_vocab(with_added_tokens=True).values()) + 1
        self.eod = self._find_eod(folder)

    def _find_eod(self, folder: Path) -> int | None:
        eod = self._fast.token_to_id(END_OF_DOCUMENT)
        config_file = folder / "tokenizer_config.json"
        if eod is None and config_file.is_file():
            eos = json.loads(config_file.read_text(encoding="utf-8")).get("eos_token")
            eos = eos.get("content") if isinstance(eos, dict) else eos
            eod = self._fast.token_to_id(eos) if eos else None
        return eod

    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        self._fast.encode_special_tokens = not allow_special
        return [encoding.ids for encoding in self._fast.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._fast.decode(ids, skip_special_tokens=False)

    def identity(self) -> str:
        return f"HuggingFaceTokenizer:{hashlib.sha256(self._definition.encode()).hexdigest()}"


class SentencePieceTokenizer:
    """A SentencePiece .model file."""

    def __init__(self, file: Path):
        from sentencepiece import SentencePieceProcessor

        if not file.is_file():
            raise DataError(f"tokenizer {file}: a SentencePiece tokenizer is one .model file, this is a folder")
        self._bytes = file.read_bytes()
        try:
            self._processor = SentencePieceProcessor(model_proto=self._bytes)
        except RuntimeError as error:
            raise DataError(f"{file}: not a SentencePiece model ({error})") from None
        self.vocab_size = self._processor.vocab_size()
        eos = self._processor.eos_id()
        self.eod = eos if eos >= 0 else None

    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        # SentencePiece knows control symbols only by id, so text never becomes one, whatever allow_special says
        return self._processor.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def identity(self) -> str:
        return f"SentencePieceTokenizer:{hashlib.sha256(self._bytes).hexdigest()}"
