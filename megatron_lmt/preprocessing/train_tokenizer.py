"""Train a byte-level BPE tokenizer of Qwen's kind: for rehearsals and tests, where no hub can be reached.

Words are split as Qwen splits them, text is not normalised, and the chat template is ChatML without a think block.

Cost: about 10 s for 8,000 tokens from 25 MB of text; memory grows with the number of different words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.files import no_file, write_json_atomically
from megatron_lmt.preprocessing.records import parse_record, read_lines

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one leading space or sign
        r"\p{N}",  # digits one by one
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # spaces before the last one
        r"\s+",
    )
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(inputs: list[Path], json_keys: list[str], vocab_size: int, output: Path) -> int:
    """Train and save a tokenizer that transformers and `load_tokenizer` open.

    Args:
        inputs: jsonl files (the texts under `json_keys`) or plain text, both also gzipped.
        vocab_size: with the special tokens, which get the last ids.
        output: a new or empty folder.
    Returns:
        the size reached, which is smaller than asked for where the text has too few different pieces.
    Raises:
        UserError: wrong arguments (all of them), a bad line, or no text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    _check(inputs, vocab_size, output)
    tokenizer = Tokenizer(models.BPE())
    splits = [
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(inputs, json_keys), trainer)
    if vocab_size > _smallest_size() and tokenizer.get_vocab_size() == len(alphabet):
        raise DataError(f"{', '.join(map(str, inputs))}: no word of two bytes in it, so there is nothing to learn")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])

    output.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json_atomically(output / "tokenizer_config.json", config)
    tokenizer.save(str(output / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def _smallest_size() -> int:
    return 256 + len(SPECIAL_TOKENS)


def _check(inputs: list[Path], vocab_size: int, output: Path) -> None:
    problems = [no_file(path) for path in inputs if not path.is_file()]
    problems += [f"{path}: empty; leave it out" for path in inputs if path.is_file() and not path.stat().st_size]
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        problems.append(f"{output} exists already and is not written over: delete it or name another folder")
    if vocab_size < _smallest_size():
        problems.append(f"--vocab-size {vocab_size}: at least {_smallest_size()}, all bytes and the special tokens")
    if problems:
        raise ConfigError(problems)


def _texts(inputs: list[Path], json_keys: list[str]) -> Iterator[str]:
    for path in inputs:
        for number, line in read_lines(path):
            if ".jsonl" in path.suffixes:
                yield from parse_record(line, json_keys, f"{path}:{number}")
            else:
                yield line
