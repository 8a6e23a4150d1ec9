import gzip
import json
import random
import shutil

import pytest
import sentencepiece
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer

from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.languages import languages
from megatron_lmt.preprocessing.train_tokenizer import train_tokenizer

HARD = "a\u2028b\u202fᠠ\u180e\u200d  क्\u200dष ﷺ ①\t\r\n\u0085e\u0301 😀"


def hf(folder):
    return load_tokenizer("HuggingFaceTokenizer", folder)


def test_ids_equal_transformers(tiny_tokenizer):
    ours, theirs = hf(tiny_tokenizer), AutoTokenizer.from_pretrained(tiny_tokenizer)
    texts = ["The house is small.", "房子很小", HARD, "<|im_start|>user\nhi<|im_end|>"]
    assert ours.encode_batch(texts, allow_special=True) == theirs(texts, add_special_tokens=False)["input_ids"]
    assert (ours.vocab_size, ours.eod) == (len(theirs), theirs.convert_tokens_to_ids("<|endoftext|>")) == (512, 509)


def test_a_chat_model_ends_documents_with_the_end_of_text_and_not_of_a_turn(tiny_tokenizer, tmp_path):
    shutil.copytree(tiny_tokenizer, tmp_path / "chat")
    file = tmp_path / "chat" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": "<|im_end|>"}))
    tokenizer = hf(tmp_path / "chat")
    assert tokenizer.eod == tokenizer.token_to_id("<|endoftext|>") != tokenizer.token_to_id("<|im_end|>")


def test_text_does_not_become_a_special_token_unless_allowed(tiny_tokenizer):
    tokenizer, text = hf(tiny_tokenizer), "a <|endoftext|> b"
    (as_text,), (as_special,) = tokenizer.encode_batch([text]), tokenizer.encode_batch([text], allow_special=True)
    assert tokenizer.eod not in as_text and tokenizer.eod in as_special
    assert tokenizer.decode(as_text) == tokenizer.decode(as_special) == text


def test_nothing_is_normalised(tiny_tokenizer):
    tokenizer = hf(tiny_tokenizer)
    assert tokenizer.decode(tokenizer.encode_batch([HARD])[0]) == HARD


def test_round_trip_of_real_text_in_60_languages(tiny_tokenizer, sample_data):
    tokenizer = hf(tiny_tokenizer)
    for code in languages():
        with gzip.open(sample_data / "mono" / f"mono.{code}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line, _ in zip(file, range(5), strict=False)]
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts, code


def test_identity_survives_transformers_and_tells_tokenizers_apart(tiny_tokenizer, tmp_path):
    AutoTokenizer.from_pretrained(tiny_tokenizer)  # must not write anything beside it
    truncating = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    truncating["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(truncating, indent=4))
    assert hf(tmp_path).identity() == hf(tiny_tokenizer).identity()
    assert len(hf(tmp_path).encode_batch(["The house is small."])[0]) > 2  # a saved setting does not cut documents
    train_tokenizer([tiny_tokenizer / "tokenizer.json"], ["text"], 300, tmp_path / "other")
    assert hf(tmp_path / "other").identity() != hf(tiny_tokenizer).identity()


def test_chat_template_opens_the_answer_without_a_think_block(tiny_tokenizer):
    turn = [{"role": "user", "content": "hi"}]
    rendered = AutoTokenizer.from_pretrained(tiny_tokenizer).apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_sentencepiece(tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat\nthe dog sat on the cat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "sp"), vocab_size=40, minloglevel=2, hard_vocab_limit=False
    )
    tokenizer = load_tokenizer("SentencePieceTokenizer", tmp_path / "sp.model")
    (ids,) = tokenizer.encode_batch(["the cat sat </s>"])
    assert tokenizer.eod == 2 and 2 not in ids
    assert tokenizer.decode(tokenizer.encode_batch(["the cat sat"])[0]) == "the cat sat"


def test_what_is_no_tokenizer_is_named(tmp_path, tiny_tokenizer):
    with pytest.raises(DataError, match="absent: no such file or folder"):
        hf(tmp_path / "absent")
    with pytest.raises(DataError, match="no tokenizer.json"):
        hf(tmp_path)
    with pytest.raises(DataError, match="not a SentencePiece model"):
        load_tokenizer("SentencePieceTokenizer", tiny_tokenizer / "tokenizer.json")
    with pytest.raises(ConfigError, match="not written over"):
        train_tokenizer([tiny_tokenizer / "tokenizer.json"], ["text"], 300, tiny_tokenizer)


def test_ids_of_added_tokens_are_those_that_the_library_gives_them(tiny_tokenizer, tmp_path):
    """Whatever ids the file has: far ones, twice the same, those of other tokens, tokens of the model, an empty one."""
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    token, words, chosen = definition["added_tokens"][0], list(definition["model"]["vocab"]), random.Random(0)
    for number in range(50):
        names = [f"<{chosen.randint(0, 3)}>" if chosen.random() < 0.5 else chosen.choice(words) for _ in range(5)]
        names += ["<|endoftext|>", *[""] * (number % 2)]
        chosen.shuffle(names)
        definition["added_tokens"] = [{**token, "content": name, "id": chosen.randint(0, 2 * len(words))} for name in names]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(definition))
        theirs = FastTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
        assert hf(folder).vocab_size == max(theirs.values()) + 1
        assert hf(folder).eod == theirs["<|endoftext|>"]


def test_a_piece_that_a_model_has_twice_counts_twice(tiny_tokenizer, tmp_path):
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    definition["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1], ["b", -2], ["a", -3]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    theirs = FastTokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab(with_added_tokens=True)
    assert hf(tmp_path).eod == theirs["<|endoftext|>"] == 3
    assert hf(tmp_path).vocab_size == max(theirs.values()) + 1
