"""A trained tokenizer: Qwen's words, no normalising, special tokens last, ChatML."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preprocessing.train_tokenizer import SPECIAL_TOKENS, WORDS, train_tokenizer

TOOL = Path(__file__).parents[2] / "tools/train_tokenizer.py"
LINES = ["The house by the river", "Das Haus am Fluss", "河边的房子，房子里的人", "Дом у реки, дом и река"] * 2


def test_words_are_those_of_qwen():
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert WORDS == PRETOKENIZE_REGEX


def test_special_tokens_are_last_and_nothing_normalises(tiny_tokenizer):
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)
    last = tokenizer.vocab_size - 1
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [last - 2, last - 1, last]
    assert tokenizer.eod == last - 2
    assert definition["normalizer"] is None


def test_chat_template_has_no_think_block_and_an_optional_system_turn(tiny_tokenizer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    turns = [{"role": role, "content": role[0].upper()} for role in ("system", "user", "assistant")]
    user, assistant = "<|im_start|>user\nU<|im_end|>\n", "<|im_start|>assistant\n"

    def render(turns, add_generation_prompt):
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)

    assert render(turns[1:2], True) == user + assistant
    assert render(turns[:2], True) == "<|im_start|>system\nS<|im_end|>\n" + user + assistant
    assert render(turns[1:], False) == user + assistant + "A<|im_end|>\n"


def test_jsonl_and_plain_text_give_the_same_tokenizer(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES), encoding="utf-8")
    records = [{"a": first, "b": second} for first, second in zip(LINES[::2], LINES[1::2], strict=True)]
    with gzip.open(tmp_path / "text.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    train_tokenizer([tmp_path / "text.txt"], ["text"], 300, tmp_path / "plain")
    train_tokenizer([tmp_path / "text.jsonl.gz"], ["a", "b"], 300, tmp_path / "jsonl")
    plain, jsonl = (tmp_path / name / "tokenizer.json" for name in ("plain", "jsonl"))
    assert plain.read_bytes() == jsonl.read_bytes()


def test_small_text_gives_a_smaller_vocabulary_and_says_so(tmp_path):
    (tmp_path / "small.txt").write_text("abc abc\n")
    command = [sys.executable, TOOL, "--input", "small.txt", "--vocab-size", "1000", "--output", "t"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    size = load_tokenizer("HuggingFaceTokenizer", tmp_path / "t").vocab_size
    assert result.stdout == f"{size} tokens (the text is too small for 1000) → t\n"
    assert 259 < size < 270


def test_all_wrong_arguments_are_named_at_once(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError) as error:
        train_tokenizer([tmp_path / "a", tmp_path / "empty.txt"], ["text"], 10, tmp_path / "full")
    assert [problem.removeprefix(str(tmp_path)) for problem in error.value.problems] == [
        "/a: no such file",
        "/empty.txt: empty; leave it out",
        "/full exists already and is not written over: delete it or name another folder",
        "--vocab-size 10: at least 259, all bytes and the special tokens",
    ]


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n \n"), ("a.jsonl", '{"text": "abc"}\n{"text": 3}\n')])
def test_bad_text_leaves_no_folder(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        train_tokenizer([tmp_path / name], ["text"], 300, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "text.txt").write_text("\n".join(LINES), encoding="utf-8")
    assert train_tokenizer([tmp_path / "text.txt"], ["text"], 259, tmp_path / "t") == 259
