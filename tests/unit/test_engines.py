"""A faster engine is used only where its ids are those of the tokenizer's own library."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import shutil
import unicodedata
from collections import Counter
from concurrent.futures import Future
from functools import cache
from itertools import islice

import numpy as np
import pytest

from megatron_lmt.data.indexed import bin_path
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, MissingExtraError
from megatron_lmt.languages import languages
from megatron_lmt.preprocessing import engines, examination, gigatoken_engine, text_files
from megatron_lmt.preprocessing.encoded import Encoded, Texts
from megatron_lmt.preprocessing.engines import (
    AUTO,
    GIGATOKEN,
    STANDARD,
    Trial,
    choose_engine,
    may_be_gigatoken,
    open_early,
    open_engine,
    trial,
)
from megatron_lmt.preprocessing.gigatoken_engine import END_OF_TEXT
from megatron_lmt.preprocessing.known_characters import KnownCharacters, is_normalised_otherwise, is_settled
from megatron_lmt.preprocessing.one_source import Run, proved
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.proof_texts import SPACES, proof_texts
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.preprocessing.tokenising import WORD, Settings, count_words

needs_gigatoken = pytest.mark.skipif(engines.find_spec("gigatoken") is None, reason="gigatoken is not installed")


@pytest.fixture(params=[(), ("text",)], ids=["text", "chat"])
def recipe(request, tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer, loss_keys=request.param)


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)


def choose(asked: str, recipe: Recipe, texts: list[str]) -> str:
    engines.forget_engines()
    return choose_engine(asked, recipe, trial(recipe, texts)) if may_be_gigatoken(asked, recipe) else STANDARD


def sample_texts(sample_data) -> dict[str, list[str]]:
    texts = {}
    for code in languages():
        with gzip.open(sample_data / f"mono/mono.{code}.jsonl.gz") as lines:
            texts[code] = [json.loads(line)["text"] for line in islice(lines, 30)]
    return texts


def differing(recipe: Recipe, tokenizer, engine: str, texts: list[str]) -> int:
    found = open_engine(engine, recipe)(Texts(texts)).each()
    expected = tokenizer.encode_batch(texts, recipe.recognises_special)
    return sum(one.tolist() != other for one, other in zip(found, expected, strict=True))


def assert_equal(found: Encoded, expected: Encoded) -> None:
    assert np.array_equal(found.ends, expected.ends)
    assert all(map(np.array_equal, found.each(), expected.each()))


@pytest.mark.parametrize("engine", [STANDARD, pytest.param(GIGATOKEN, marks=needs_gigatoken)])
def test_ids_are_those_of_the_tokenizer(recipe, tokenizer, engine):
    texts = proof_texts()
    assert differing(recipe, tokenizer, engine, texts) == 0
    assert open_engine(engine, recipe)(Texts([])).each() == []


@pytest.mark.parametrize("engine", [STANDARD, pytest.param(GIGATOKEN, marks=needs_gigatoken)])
def test_ids_are_those_of_auto_tokenizer_on_60_languages(tiny_tokenizer, sample_data, engine):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(tiny_tokenizer)
    encode = open_engine(engine, Recipe("HuggingFaceTokenizer", tiny_tokenizer))
    texts = sample_texts(sample_data)
    assert len(texts) == 60
    for code, some in texts.items():
        expected = reference(some, add_special_tokens=False, split_special_tokens=True).input_ids
        assert [ids.tolist() for ids in encode(Texts(some)).each()] == expected, code


def test_processes_that_are_forked_share_what_is_open(tmp_path, tiny_tokenizer):
    """Nothing of the tokenizer is left to be opened by each of them."""
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "tokenizer")
    assert open_early((STANDARD,), Recipe("HuggingFaceTokenizer", folder)) == STANDARD
    shutil.rmtree(folder)
    encode = engines.open_engine_once(Recipe("HuggingFaceTokenizer", folder), STANDARD)
    assert encode(Texts(["Wasser"])).lengths[0] > 0


def test_proof_texts_hold_every_script_and_space(sample_data):
    proof = set("".join(proof_texts()))
    assert set(SPACES) <= proof
    tried = {ord(letter) >> 8 for letter in proof}
    for code, texts in sample_texts(sample_data).items():
        letters = [letter for letter in "".join(texts) if letter.isalpha()]
        assert sum(ord(letter) >> 8 in tried for letter in letters) > 0.99 * len(letters), code


@needs_gigatoken
def test_gigatoken_is_used_where_it_is_equal(recipe, tokenizer):
    assert choose(AUTO, recipe, ["Wasser"]) == GIGATOKEN
    assert choose(GIGATOKEN, recipe, ["Wasser"]) == GIGATOKEN
    assert choose(STANDARD, recipe, ["Wasser"]) == STANDARD


@needs_gigatoken
def test_gigatoken_is_left_where_one_id_of_the_inputs_differs(recipe, tokenizer, monkeypatch):
    open_right = engines.open_gigatoken

    def open_wrong(recipe):
        encode, is_known = open_right(recipe)

        def encode_wrongly(texts):
            encoded = encode(texts)
            encoded.tokens[-2] += 1
            return encoded

        return encode_wrongly, is_known

    monkeypatch.setattr(engines, "open_gigatoken", cache(open_wrong))
    assert choose(AUTO, recipe, ["Wasser"]) == STANDARD
    with pytest.raises(ConfigError, match="other ids than Hugging Face's library for 'Wasser'; leave it out"):
        choose(GIGATOKEN, recipe, ["Wasser"])


@needs_gigatoken
def test_every_character_of_unicode_gives_the_same_ids(recipe, tokenizer):
    """Those that are newer than Python's tables are where the libraries differ: gigatoken does not get them."""
    kinds = Counter()
    texts = []
    for code in range(0x30000):
        kind = unicodedata.category(chr(code))
        kinds[kind] += 1
        if kind not in ("Cs", "Co") and (kinds[kind] < 5000 or code % 50 == 0 or not is_settled(chr(code))):
            texts.append("a{0}b{0} {0}{0}1{0}{0}\n{0}".format(chr(code)))
    assert len(texts) > 20_000
    assert sum(not is_settled(text[1]) for text in texts) > 1000
    assert differing(recipe, tokenizer, GIGATOKEN, texts) == 0
    settled = [text for text in texts if is_settled(text[1])]
    assert any(unicodedata.category(text[1]) == "Cn" for text in settled)
    settled.remove(next(text for text in settled if text[1] == END_OF_TEXT))
    assert_equal(engines.open_gigatoken(recipe)[0](Texts(settled)), open_engine(STANDARD, recipe)(Texts(settled)))


@pytest.fixture
def like_qwen(tmp_path, tiny_tokenizer):
    """What Qwen3's tokenizer has beside: NFC, and added tokens that are not special."""
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    token = {**definition["added_tokens"][0], "id": 512, "content": "<think>", "special": False}
    definition |= {"normalizer": {"type": "NFC"}, "added_tokens": [*definition["added_tokens"], token]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    return tmp_path


@needs_gigatoken
@pytest.mark.parametrize("loss_keys", [(), ("text",)])
def test_gigatoken_is_equal_with_nfc_too(like_qwen, loss_keys):
    """Marks newer than the tables of Hugging Face's NFC are where the libraries differ: gigatoken does not get them."""
    recipe = Recipe("HuggingFaceTokenizer", like_qwen, loss_keys=loss_keys)
    tokenizer = load_tokenizer("HuggingFaceTokenizer", like_qwen)
    letters = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    marked = [letter for letter in letters if unicodedata.combining(letter) or unicodedata.decomposition(letter)]
    others = [letter for letter in marked if is_normalised_otherwise(letter)]
    assert len(marked) > 5_000 and "\u0eba" in others and len(others) < 200
    texts = [f"a{letter}\u0301{letter}\u0316 e\u0323{letter}\u0307 <think>{letter}\u05b0" for letter in marked]
    assert differing(recipe, tokenizer, GIGATOKEN, texts) == 0
    known = [text for text in texts if text[1] not in others and is_settled(text[1])]
    assert_equal(engines.open_gigatoken(recipe)[0](Texts(known)), open_engine(STANDARD, recipe)(Texts(known)))
    assert choose(AUTO, recipe, texts) == GIGATOKEN


@needs_gigatoken
@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_that_come_of_nfc_are_found_as_the_library_finds_them(like_qwen, normalized):
    """As where words of a language were added to the vocabulary, and its text is decomposed."""
    definition = json.loads((like_qwen / "tokenizer.json").read_text())
    token = {**definition["added_tokens"][-1], "normalized": normalized}
    words = ["Wässer", "Kilo", "<é>"]
    definition["added_tokens"] += [token | {"id": 513 + number, "content": word} for number, word in enumerate(words)]
    (like_qwen / "tokenizer.json").write_text(json.dumps(definition))
    recipe = Recipe("HuggingFaceTokenizer", like_qwen)
    tokenizer = load_tokenizer("HuggingFaceTokenizer", like_qwen)
    texts = [*words, *(unicodedata.normalize("NFD", word) for word in words), "\u212ailo", "Kilo\u0301", "Wässer\u0301"]
    assert choose(AUTO, recipe, texts) == GIGATOKEN
    assert differing(recipe, tokenizer, GIGATOKEN, texts) == 0


@pytest.mark.parametrize("beyond", [0, 0x10000], ids=["16 bits", "more"])
def test_a_new_character_is_found_among_known_ones(beyond):
    new = next(chr(code) for code in range(beyond, 0x30000) if not is_settled(chr(code)))
    old = "a \U0001f600 ä 水 \u180e\U00020000"
    are_known = KnownCharacters(nfc=True)
    for _ in range(2):  # what was seen once takes another way
        assert are_known(Texts([old, old])).tolist() == [True, True]
        assert are_known(Texts([old, f"{old}{new}", old])).tolist() == [True, False, True]


@needs_gigatoken
@pytest.mark.parametrize("place", ["end", "beginning", "spaced"])
def test_the_model_may_stand_anywhere_in_the_definition(place, recipe, tmp_path, tiny_tokenizer):
    content = json.loads((tiny_tokenizer / "tokenizer.json").read_bytes())
    model = {"model": content.pop("model")}
    token = {**content["added_tokens"][0], "id": 512, "content": 'a "model": b', "special": True}
    content["added_tokens"].append(token)
    whole = {**model, **content} if place == "beginning" else {**content, **model}
    separators = (" , ", " : ") if place == "spaced" else None
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole, separators=separators))
    right = load_tokenizer("HuggingFaceTokenizer", tmp_path)
    there = dataclasses.replace(recipe, tokenizer_model=tmp_path)
    assert differing(there, right, GIGATOKEN, [*proof_texts(), 'x a "model": b y']) == 0


@pytest.mark.parametrize("first", [0, 50_000])
def test_an_id_is_found_soon_where_added_tokens_come_first(first):
    """As in the tokenizers of BLOOM and Falcon; to seek each id of the model in it took minutes."""

    class Model(bytes):
        sought = 0

        def __contains__(self, part):
            self.sought += 1
            return super().__contains__(part)

    vocabulary = {f"Brot{number}" if number else "<pad>": number for number in range(50_000)}
    model = Model(json.dumps({"vocab": vocabulary, "merges": []}, separators=(",", ":")).encode())
    found = gigatoken_engine._unused_id([{"id": first}], model)
    assert found not in (first, *vocabulary.values()) and found < 50_100
    assert model.sought < 10


@needs_gigatoken
def test_no_id_of_the_model_is_taken_for_what_parts_texts(recipe, tmp_path, tiny_tokenizer):
    """Whichever id a piece of the model has beyond a gap."""
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    piece = max((piece for piece in vocabulary if piece.isascii() and piece.isalpha()), key=len)
    definition["added_tokens"] = []
    there = dataclasses.replace(recipe, tokenizer_model=tmp_path)
    for beyond in range(40):
        vocabulary[piece] = len(vocabulary) + beyond
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        engines.forget_engines()
        right = load_tokenizer("HuggingFaceTokenizer", tmp_path)
        assert vocabulary[piece] in right.encode(f"a {piece}{piece} {piece}")
        assert differing(there, right, GIGATOKEN, [f"a {piece}{piece} {piece}", piece]) == 0


@needs_gigatoken
def test_ever_new_words_take_no_more_memory(recipe, tokenizer, monkeypatch):
    monkeypatch.setattr(gigatoken_engine, "REMEMBERED_BYTES", 16 << 20)
    chosen = random.Random(1)
    encode, _ = gigatoken_engine.open_gigatoken(recipe)
    held = []
    for _ in range(60):
        letters = "".join(chosen.choices("abcdefghijklmnop", k=160_000))
        texts = [" ".join(letters[i : i + 8] for i in range(start, start + 8000, 8)) for start in range(0, 160_000, 8000)]
        encoded = encode(Texts(texts))
        held.append(gigatoken_engine.resident_bytes())
    assert max(held) - held[0] < 64 << 20  # over 100 MB without the bound
    assert_equal(encoded, open_engine(STANDARD, recipe)(Texts(texts)))


@needs_gigatoken
def test_gigatoken_is_left_where_it_cannot_open_the_tokenizer(tmp_path, tiny_tokenizer):
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}"
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    recipe = Recipe("HuggingFaceTokenizer", tmp_path)
    assert choose(AUTO, recipe, []) == STANDARD
    with pytest.raises(ConfigError, match=r"cannot be used with .*pre_tokenizer.*\); leave it out$"):  # one line
        choose(GIGATOKEN, recipe, [])


@needs_gigatoken
def test_gigatoken_is_left_where_an_added_token_has_another_id(like_qwen, tiny_tokenizer):
    """Hugging Face's library numbers added tokens anew where their ids leave a gap."""
    definition = json.loads((like_qwen / "tokenizer.json").read_text())
    definition["added_tokens"][-1] |= {"id": 700, "content": "<elsewhere>"}  # which is in no text that is always tried
    (like_qwen / "tokenizer.json").write_text(json.dumps(definition))
    recipe = Recipe("HuggingFaceTokenizer", like_qwen)
    tokenizer = load_tokenizer("HuggingFaceTokenizer", like_qwen)
    assert tokenizer.token_to_id("<elsewhere>") == 512
    assert choose(AUTO, recipe, ["Wasser"]) == STANDARD


@needs_gigatoken
def test_gigatoken_is_left_where_text_is_normalised_otherwise(tmp_path, tiny_tokenizer):
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition | {"normalizer": {"type": "NFKC"}}))
    recipe = Recipe("HuggingFaceTokenizer", tmp_path)
    with pytest.raises(ConfigError, match="cannot be used with .* .its normalizer is .*NFKC"):
        choose(GIGATOKEN, recipe, [])
    assert choose(AUTO, recipe, []) == STANDARD


def test_without_gigatoken_the_own_library_is_used(recipe, tokenizer, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert choose(AUTO, recipe, ["Wasser"]) == STANDARD
    with pytest.raises(MissingExtraError, match=r"--tokenizer-engine gigatoken needs the package 'gigatoken': .*\[fast\]"):
        choose(GIGATOKEN, recipe, ["Wasser"])


@needs_gigatoken
def test_it_is_not_for_sentencepiece(tokenizer, tmp_path):
    recipe = Recipe("SentencePieceTokenizer", tmp_path)
    assert choose(AUTO, recipe, []) == STANDARD
    with pytest.raises(ConfigError, match="not for SentencePieceTokenizer"):
        choose(GIGATOKEN, recipe, [])


def find_other_ids(asked: str, recipe: Recipe, right: Trial) -> str:
    """As `choose_engine`, in whichever process."""
    assert asked == AUTO and len(right.texts.each) > 300
    return STANDARD


@needs_gigatoken
@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_the_same_with_either(tmp_path, recipe, workers, monkeypatch):
    """Also where the proof fails when processes with the other engine are at hand already."""
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 10_000)
    lines = [json.dumps({"text": text}) for text in proof_texts() if text.strip()]
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n")
    made = {}
    for name, engine in (("standard", STANDARD), ("gigatoken", GIGATOKEN), ("failed", AUTO)):
        if name == "failed":
            monkeypatch.setattr(examination, "choose_engine", find_other_ids)
        (manifest,) = preprocess(recipe, {tmp_path / name: [tmp_path / "x.jsonl"]}, workers, engine=engine)
        made[name] = manifest["engine"].split()[0], bin_path(tmp_path / f"{name}_text_document").read_bytes()
    content = made["standard"][1]
    assert made == {
        "standard": ("tokenizers", content),
        "gigatoken": ("gigatoken", content),
        "failed": ("tokenizers", content),
    }


def test_the_own_library_gives_special_tokens_in_chats_only(recipe, tokenizer):
    (ids,) = open_engine(STANDARD, recipe)(Texts(["<|im_start|>user"])).each()
    assert (tokenizer.token_to_id("<|im_start|>") in ids) is recipe.recognises_special


def test_what_is_made_before_the_proof_ends_counts_only_if_it_holds(recipe):
    """Also that it cannot be made."""

    def work(settings, chunks):
        for chunk in chunks:
            if settings.engine == GIGATOKEN and chunk == "worse":
                raise RuntimeError("a word it cannot take")
            yield settings.engine, chunk

    def made(engine: str, chunks: list[str]) -> list:
        proof = Future()
        proof.set_result(engine)
        settings = Settings(recipe, GIGATOKEN, None, np.dtype(np.int32))
        run = Run(settings, proof, {}, work, max_bad_lines=0, finished=set(), pace=None)
        return list(proved(run, lambda: iter(chunks)))

    assert made(GIGATOKEN, ["good", "better"]) == [(GIGATOKEN, "good"), (GIGATOKEN, "better")]
    assert made(STANDARD, ["good", "worse"]) == [(STANDARD, "good"), (STANDARD, "worse")]
    assert made(STANDARD, ["worse"]) == [(STANDARD, "worse")]
    assert made(STANDARD, []) == made(GIGATOKEN, []) == []
    with pytest.raises(RuntimeError, match="a word it cannot take"):
        made(GIGATOKEN, ["worse"])


def test_words_are_counted_as_the_pattern_finds_them():
    texts = [*proof_texts(), "", " ", "a", " a  b\t\nc ", "\u202f\u00a0 x"]
    for some in (texts, *([text] for text in texts), []):
        assert count_words(Texts(some)) == sum(len(WORD.findall(text)) for text in some)
