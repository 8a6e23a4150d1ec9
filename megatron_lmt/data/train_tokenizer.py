"""Train a byte-level BPE tokenizer of Qwen's kind: for rehearsals and tests, where no hub can be reached.

Words are split as Qwen splits them, text is not normalised, and the chat template is ChatML without a think block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from megatron_lmt.data.records import parse_record, read_lines
from megatron_lmt.errors import ConfigError, DataError

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one leading space or sign
        r"\p{N}",  # digits one by one
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # spaces before the end
        r"\s+",
    )
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(inputs: list[Path], json_key: str, vocab_size: int, output: Path) -> int:
    """Train and save a tokenizer that transformers and `load_tokenizer` open.

    Args:
        inputs: jsonl files (the text under `json_key`) or plain text, both also gzipped.
        vocab_size: with the special tokens, which get the last ids.
        output: a new folder.
    Returns:
        the size reached, which is smaller than asked for where the text has too few different pieces.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    problems = [f"{path}: no such file" for path in inputs if not path.is_file()]
    if output.exists():
        problems.append(f"{output} exists already and is not written over: delete it or name another folder")
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        problems.append(f"--vocab-size {vocab_size}: at least {smallest}, all bytes and the special tokens")
    if problems:
        raise ConfigError(problems)

    tokenizer = Tokenizer(models.BPE())
    splits = [
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(inputs, json_key), trainer)
    if not tokenizer.get_vocab_size() > 256:
        raise DataError(f"{', '.join(map(str, inputs))}: no text to learn a merge from")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    output.mkdir(parents=True)
    tokenizer.save(str(output / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "chat_template": CHAT_TEMPLATE,
    }
    (output / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return tokenizer.get_vocab_size()


def _texts(inputs: list[Path], json_key: str) -> Iterator[str]:
    for path in inputs:
        for number, line in read_lines(path):
            yield parse_record(line, [json_key], f"{path}:{number}")[0] if ".jsonl" in path.suffixes else line
