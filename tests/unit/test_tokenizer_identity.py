"""What data files rely on in a tokenizer: an identity that follows the ids, an end of document, and plain text."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import pytest

from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe

HUGGING_FACE, SENTENCE_PIECE = "HuggingFaceTokenizer", "SentencePieceTokenizer"
TEXT = "The house \u202f\u180e\u200d é e\u0301 ﬁ 水 \r\n\u2028 😀"


def read_definition(folder) -> dict:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def copy_with(tokenizer, folder, **changes):
    """A copy of a tokenizer's folder whose tokenizer.json has other values at the top."""
    shutil.copytree(tokenizer, folder)
    (folder / "tokenizer.json").write_text(json.dumps({**read_definition(folder), **changes}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory):
    def train(**options):
        from sentencepiece import SentencePieceTrainer

        model, options = io.BytesIO(), {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2, **options}
        lines = [f"the {word} of the {other}" for word in ("house", "river", "water") for other in ("bread", "time")]
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options)
        file = tmp_path_factory.mktemp("sentencepiece") / "m.model"
        file.write_bytes(model.getvalue())
        return file

    return train


def test_identity_survives_transformers(tiny_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(tmp_path)
    before, after = (load_tokenizer(HUGGING_FACE, folder).identity() for folder in (tiny_tokenizer, tmp_path))
    assert read_definition(tiny_tokenizer) != read_definition(tmp_path)  # otherwise this shows nothing
    assert before == after and before.startswith("HuggingFaceTokenizer:")


def test_identity_ignores_how_the_file_is_written(tiny_tokenizer, tmp_path):
    definition = read_definition(tiny_tokenizer)
    model = {**definition["model"], "merges": [" ".join(pair) for pair in definition["model"]["merges"]]}
    model.pop("ignore_merges")
    other = copy_with(tiny_tokenizer, tmp_path / "t", model={**model, "continuing_subword_prefix": ""}, decoder=None)
    tokenizers = [load_tokenizer(HUGGING_FACE, folder) for folder in (tiny_tokenizer, other)]
    assert tokenizers[0].identity() == tokenizers[1].identity()
    assert tokenizers[0].encode(TEXT) == tokenizers[1].encode(TEXT)


def test_identity_follows_what_decides_ids(tiny_tokenizer, tmp_path):
    definition = read_definition(tiny_tokenizer)
    model, tokens = definition["model"], definition["added_tokens"]
    first, second, *_ = model["vocab"]
    swapped = {**model["vocab"], first: model["vocab"][second], second: model["vocab"][first]}
    changes = [
        {},
        {"model": {**model, "merges": model["merges"][:-1]}},
        {"model": {**model, "vocab": swapped}},
        {"model": {**model, "ignore_merges": True}},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": definition["pre_tokenizer"]["pretokenizers"][1]},
        {"added_tokens": [{**token, "special": False} for token in tokens]},
    ]
    folders = [copy_with(tiny_tokenizer, tmp_path / str(i), **change) for i, change in enumerate(changes)]
    assert len({load_tokenizer(HUGGING_FACE, folder).identity() for folder in folders}) == len(changes)


def test_nothing_is_added_to_a_text(tiny_tokenizer, tmp_path):
    number = load_tokenizer(HUGGING_FACE, tiny_tokenizer).token_to_id("<|im_start|>")
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [number], "tokens": ["<|im_start|>"]}},
    }
    changed = load_tokenizer(HUGGING_FACE, copy_with(tiny_tokenizer, tmp_path / "t", post_processor=template))
    assert changed.encode(TEXT) == load_tokenizer(HUGGING_FACE, tiny_tokenizer).encode(TEXT)


def test_end_of_document_is_endoftext_else_the_eos_token(tiny_tokenizer, tmp_path):
    tokens = read_definition(tiny_tokenizer)["added_tokens"]
    others = [{**token, "content": token["content"].replace("endoftext", "fin")} for token in tokens]
    folder = copy_with(tiny_tokenizer, tmp_path / "t", added_tokens=others)
    before = load_tokenizer(HUGGING_FACE, tiny_tokenizer)
    assert before.eod == before.token_to_id("<|endoftext|>")

    for eos in ("<|im_end|>", "<|fin|>"):
        for value in (eos, {"content": eos}):  # both spellings occur
            (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": value}))
            tokenizer = load_tokenizer(HUGGING_FACE, folder)
            assert tokenizer.eod == tokenizer.token_to_id(eos)

    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_start|>"}))
    tokenizer = load_tokenizer(HUGGING_FACE, folder)
    assert tokenizer.eod == tokenizer.token_to_id("<|im_start|>")

    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(DataError, match="name the eos_token in tokenizer_config.json"):
        load_tokenizer(HUGGING_FACE, folder).eod  # noqa: B018


def test_sentence_piece_control_symbols_never_come_from_text(sentence_piece):
    from sentencepiece import SentencePieceProcessor

    file = sentence_piece(control_symbols=["<|im_start|>"])
    tokenizer = load_tokenizer(SENTENCE_PIECE, file)
    control = tokenizer.token_to_id("<|im_start|>")
    assert control is not None and tokenizer.eod == tokenizer.token_to_id("</s>")
    for allow_special in (False, True):
        assert not {control, tokenizer.eod} & set(tokenizer.encode("<|im_start|>the house</s>", allow_special))
    assert tokenizer.vocab_size == SentencePieceProcessor(model_file=str(file)).get_piece_size()


def test_sentence_piece_without_eos_says_so(sentence_piece):
    tokenizer = load_tokenizer(SENTENCE_PIECE, sentence_piece(eos_id=-1))
    with pytest.raises(DataError, match="no eos piece"):
        tokenizer.eod  # noqa: B018


def test_sentence_piece_identity_is_of_its_bytes(sentence_piece, tmp_path):
    file, other = sentence_piece(), sentence_piece(model_type="bpe")
    shutil.copyfile(file, tmp_path / "copy.model")
    identities = [load_tokenizer(SENTENCE_PIECE, path).identity() for path in (file, tmp_path / "copy.model", other)]
    assert identities[0] == identities[1] != identities[2]


def test_unknown_token_has_no_id(tiny_tokenizer, sentence_piece):
    assert load_tokenizer(HUGGING_FACE, tiny_tokenizer).token_to_id("<|nowhere|>") is None
    assert load_tokenizer(SENTENCE_PIECE, sentence_piece()).token_to_id("<|nowhere|>") is None


def test_what_is_not_a_tokenizer_is_named_with_the_fix(tiny_tokenizer, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (tmp_path / "zero.model").touch()
    cases = [
        (HUGGING_FACE, tmp_path / "broken", "not a tokenizer"),
        (HUGGING_FACE, tmp_path, "only fast tokenizers .*save_pretrained"),
        (HUGGING_FACE, tiny_tokenizer / "tokenizer.json", "name the folder that holds tokenizer.json"),
        (SENTENCE_PIECE, tmp_path / "zero.model", "not a SentencePiece model"),
        (SENTENCE_PIECE, tiny_tokenizer, "one .model file"),
    ]
    for tokenizer_type, path, reason in cases:
        with pytest.raises(DataError, match=reason) as error:
            load_tokenizer(tokenizer_type, path)
        assert str(path) in str(error.value)
        with pytest.raises(DataError, match=reason):
            load_tokenizer(tokenizer_type, path, for_text=False).identity()
    with pytest.raises(ConfigError, match="'GPT2BPETokenizer': there are HuggingFaceTokenizer and"):
        load_tokenizer("GPT2BPETokenizer", tiny_tokenizer)


@pytest.mark.parametrize("engine", ["auto", "standard"])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_library_cannot_read_is_named_before_any_work(tiny_tokenizer, tmp_path, engine, workers):
    model = {**read_definition(tiny_tokenizer)["model"], "merges": [["never", "there"]]}
    folder = copy_with(tiny_tokenizer, tmp_path / "broken", model=model)
    (tmp_path / "a.jsonl").write_text('{"text": "the house"}\n')
    recipe = Recipe(HUGGING_FACE, folder)
    with pytest.raises(DataError, match="broken/tokenizer.json: not a tokenizer .*; copy or convert it again"):
        preprocess(recipe, {tmp_path / "out": [tmp_path / "a.jsonl"]}, workers, engine=engine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "broken"]


def test_neither_torch_nor_transformers_is_imported(tiny_tokenizer):
    program = (
        "import sys, megatron_lmt.preprocessing.preprocess, megatron_lmt.data.tokenizer as t\n"
        f"t.load_tokenizer({HUGGING_FACE!r}, t.Path({str(tiny_tokenizer)!r})).encode('a')\n"
        "sys.exit(str({'torch', 'transformers'} & set(sys.modules) or ''))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr.strip() == ""
