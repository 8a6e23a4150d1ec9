"""Tokenizers of Hugging Face (fast ones) and SentencePiece behind one interface, with an identity that data carry.

Text of a corpus is encoded as text: `<|im_start|>` in it becomes ordinary pieces, so that no web page can inject
control tokens. Only a rendered chat is encoded with `allow_special=True`.

Cost: a byte-level BPE encodes one to two million tokens a second on one core. Neither torch nor transformers is
imported.

Next on the path: `preprocessing/preprocess.py` encodes a corpus in parallel.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from megatron_lmt.errors import ConfigError, DataError

END_OF_DOCUMENT = "<|endoftext|>"


class Tokenizer(ABC):
    """`vocab_size` is the highest id + 1, added tokens included."""

    vocab_size: int

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids of one text; see `encode_batch`."""
        return self.encode_batch([text], allow_special)[0]

    @abstractmethod
    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        """Token ids of each text; nothing is put before or after.

        Args:
            allow_special: text such as `<|im_start|>` becomes that token, as rendered chats need it. Otherwise special
                tokens are text like any other. What the tokenizer itself declares as ordinary text is recognised either
                way: added tokens that are not special (`<think>` in Qwen3), SentencePiece's user-defined symbols.
        """

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included."""

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """The id of a token as it stands in the vocabulary; None if it is not there."""

    @property
    @abstractmethod
    def eod(self) -> int:
        """The id that ends a document.

        Raises:
            DataError: the tokenizer has none.
        """

    @abstractmethod
    def identity(self) -> str:
        """Names everything that decides which ids a text gets, and nothing else; equal on every machine."""


def load_tokenizer(tokenizer_type: str, model: Path, for_text: bool = True) -> Tokenizer:
    """Open a tokenizer.

    Args:
        tokenizer_type: "HuggingFaceTokenizer" or "SentencePieceTokenizer".
        model: for the former a folder with tokenizer.json, for the latter a .model file.
        for_text: False: only its identity, size and eod will be asked for; these are known before a library is open.
    Raises:
        ConfigError: another type.
        DataError: it is not there, or not of this type.
    """
    types = {
        "HuggingFaceTokenizer": partial(HuggingFaceTokenizer, for_text=for_text),
        "SentencePieceTokenizer": SentencePieceTokenizer,
    }
    if tokenizer_type not in types:
        raise ConfigError(f"tokenizer type {tokenizer_type!r}: there are {' and '.join(types)}")
    if not Path(model).exists():
        raise DataError(f"tokenizer {model}: no such file or folder; a name on a hub must be downloaded first")
    return types[tokenizer_type](Path(model))


class HuggingFaceTokenizer(Tokenizer):
    """A fast tokenizer: a folder with tokenizer.json. Not for several threads at once.

    What it is, its identity, size and eod, is read from its files; the library is opened for texts and tokens.

    Args:
        folder: with tokenizer.json.
        for_text: open the library.
    """

    def __init__(self, folder: Path, for_text: bool = True):
        self._folder, self._file = folder, definition_file(folder)
        self._fast = self._open() if for_text else None

    def _open(self):
        from tokenizers import Tokenizer as FastTokenizer

        try:
            fast = FastTokenizer.from_file(str(self._file))
        except Exception as error:  # the library raises bare Exceptions
            raise DataError(f"{self._file}: not a tokenizer ({error}); copy or convert it again") from None
        # padding and truncation belong to a call, not to the vocabulary; a saved setting would cut documents
        fast.no_padding()
        fast.no_truncation()
        return fast

    @property
    def vocab_size(self) -> int:
        return self._facts.vocab_size

    @property
    def eod(self) -> int:
        """`<|endoftext|>` if there is one, else the eos_token."""
        if self._facts.eod is not None:
            return self._facts.eod
        raise DataError(
            f"tokenizer {self._folder}: nothing ends a document: neither {END_OF_DOCUMENT} nor an eos_token is in its "
            "vocabulary; name the eos_token in tokenizer_config.json"
        )

    def _eos_token(self) -> str | None:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            file = self._folder / name
            token = _read_json(file).get("eos_token") if file.is_file() else None
            if token:
                return token["content"] if isinstance(token, dict) else token
        return None

    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        self._fast.encode_special_tokens = not allow_special
        return [encoding.ids for encoding in self._fast.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._fast.decode(ids, skip_special_tokens=False)

    def token_to_id(self, token: str) -> int | None:
        return self._fast.token_to_id(token)

    def identity(self) -> str:
        return f"HuggingFaceTokenizer:{self._facts.hash}"

    @cached_property
    def _facts(self) -> _Facts:
        definition = read_definition(self._folder)
        try:
            ids, digest = _ids(definition), hashlib.sha256(_canonical(definition)).hexdigest()
            vocab_size = 1 + max(ids.values())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{self._file}: not a tokenizer ({error!r}); copy or convert it again") from None
        eod = next((ids[token] for token in (END_OF_DOCUMENT, self._eos_token()) if token in ids), None)
        return _Facts(digest, vocab_size, eod)

    @property
    def added_tokens(self) -> list[str]:
        """Those beside the model's own, such as `<|im_end|>` and `<think>`."""
        return [token.content for token in self._fast.get_added_tokens_decoder().values()]


@dataclass(frozen=True)
class _Facts:
    """`hash` of what decides ids, the highest id + 1, and what ends documents, if anything."""

    hash: str
    vocab_size: int
    eod: int | None


def _ids(definition: dict) -> dict[str, int]:
    """The id of each token as the library gives it, which takes 0.3 s to open.

    It goes by the ids that the file has for added tokens only where these follow the model's own without a gap.
    """
    vocabulary = definition["model"]["vocab"]  # a list may have a piece twice, and both count
    model = vocabulary if isinstance(vocabulary, dict) else {piece: number for number, (piece, _) in enumerate(vocabulary)}
    added: dict[str, int] = {}
    for token in filter(itemgetter("content"), definition.get("added_tokens", [])):  # an empty one gets no id
        next_id = max(len(vocabulary), 1 + max(added.values(), default=0))
        added.setdefault(token["content"], model.get(token["content"], next_id))
    return model | added


def definition_file(folder: Path) -> Path:
    if folder.is_file():
        raise DataError(f"tokenizer {folder}: a file; name the folder that holds tokenizer.json")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise DataError(
            f"tokenizer {folder}: no tokenizer.json in it; only fast tokenizers are read "
            "(transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one)"
        )
    return file


def read_definition(folder: Path) -> dict:
    """The content of tokenizer.json, without padding and truncation.

    Raises:
        DataError: it is not there, or not a JSON object.
    """
    return {**_read_json(definition_file(folder)), "padding": None, "truncation": None}


def _read_json(file: Path) -> dict:
    try:
        content = orjson.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a JSON object; copy it again")
    return content


def _canonical(definition: dict) -> bytes:
    """What decides ids, of the content of tokenizer.json: the same after transformers read and saved it.

    Left out are what happens to ids later (decoder, post-processor), offsets, and how defaults and merges are written.
    """
    model = {key: value for key, value in definition["model"].items() if value not in (None, "") and value is not False}
    if "merges" in model:
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    parts = {
        "model": model,
        "added_tokens": sorted(definition.get("added_tokens", []), key=lambda token: token["id"]),
        "normalizer": definition.get("normalizer"),
        "pre_tokenizer": _without_offsets(definition.get("pre_tokenizer")),
    }
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


def _without_offsets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_offsets(inner) for key, inner in value.items() if key != "trim_offsets"}
    return [_without_offsets(inner) for inner in value] if isinstance(value, list) else value


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece .model file."""

    def __init__(self, file: Path):
        from sentencepiece import SentencePieceProcessor

        self._file = file
        if not file.is_file():
            raise DataError(f"tokenizer {file}: a folder; a SentencePiece tokenizer is one .model file, name that")
        content = file.read_bytes()
        try:
            # one thread: the processes of preprocess.py are the parallelism
            self._processor = SentencePieceProcessor(model_proto=content, num_threads=1)
            self.vocab_size = self._processor.vocab_size()
        except RuntimeError as error:
            raise DataError(f"{file}: not a SentencePiece model ({error}); copy it again") from None
        if not self.vocab_size:
            raise DataError(f"{file}: not a SentencePiece model (no pieces in it); copy it again")
        self._identity = hashlib.sha256(content).hexdigest()

    @property
    def eod(self) -> int:
        """The model's eos piece."""
        if self._processor.eos_id() < 0:
            raise DataError(f"tokenizer {self._file}: no eos piece to end a document with; train the model with one")
        return self._processor.eos_id()

    def encode_batch(self, texts: list[str], allow_special: bool = False) -> list[list[int]]:
        # control symbols are known by id only, so text never becomes one, whatever allow_special says
        return self._processor.encode(texts)

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def token_to_id(self, token: str) -> int | None:
        number = self._processor.piece_to_id(token)
        return number if self._processor.id_to_piece(number) == token else None

    def identity(self) -> str:
        return f"SentencePieceTokenizer:{self._identity}"
