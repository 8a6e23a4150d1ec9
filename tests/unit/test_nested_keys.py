"""Keys inside of objects: pairs as Hugging Face `datasets` keeps them, {"translation": {"en": ..., "de": ...}}."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, Translation, Value

from megatron_lmt.corpus.source_list import read_sources
from megatron_lmt.data.indexed import read_manifest, rejected_path
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.inputs import as_input, paired
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe
from tests.end_to_end.processes import tool
from tests.unit.test_resume_preprocess import interrupt_after, result
from tests.unit.test_source_list import texts_of

ENGLISH_TO_GERMAN = Pairing("en", "de")
FEATURES = Features({"id": Value("string"), "translation": Translation(("en", "de"))})


def write_jsonl(folder: Path, rows: list) -> Path:
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    return folder / "x.jsonl.gz"


def write_parquet(folder: Path, rows: list) -> Path:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "x.parquet", row_group_size=40)
    return folder / "x.parquet"


def write_dataset(folder: Path, rows: list) -> Path:
    Dataset.from_list(rows, features=FEATURES).save_to_disk(folder / "x", num_shards=2)
    return folder / "x"


def as_hub(write):
    """A folder stands for the hub, which tests cannot reach: the loading code is the same."""

    def write_for_hub(folder: Path, rows: list) -> Path:
        (folder / "data").mkdir()
        write(folder / "data", rows)
        return Path(f"hf://{folder}/data")

    return write_for_hub


WAYS = {
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "dataset": write_dataset,
    "hub, jsonl": as_hub(write_jsonl),
    "hub, parquet": as_hub(write_parquet),
}


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.fixture
def pairs(sample_data) -> list[tuple[str, str]]:
    with gzip.open(sample_data / "bilingual/en-de.tsv.gz", "rt", encoding="utf-8", newline="\n") as lines:
        return [tuple(line.split("\t")[:2]) for line, _ in zip(lines, range(100), strict=False)]


def as_rows(pairs: list[tuple[str, str]]) -> list[dict]:
    return [{"id": str(n), "translation": {"en": en, "de": de}} for n, (en, de) in enumerate(pairs)]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_same_documents(tmp_path, recipe, tiny_tokenizer, monkeypatch, pairs, way):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 500)
    monkeypatch.setattr("megatron_lmt.preprocessing.hub.ROWS_TOGETHER", 3)
    monkeypatch.setattr("megatron_lmt.preprocessing.shards.SHARD_BYTES", 3000)
    path = WAYS[way](tmp_path, as_rows(pairs))
    expected = [f"<en2de> {a} <de> {b}" for a, b in pairs]
    for keys in (None, ("translation.en", "translation.de")):
        name = "o" if keys else "default"
        preprocess(recipe, {tmp_path / name: paired([path], ENGLISH_TO_GERMAN, keys)})
        assert texts_of(tmp_path / name, tiny_tokenizer) == expected
    german = {tmp_path / "de": [as_input(path, keys=("translation.de",))]}
    preprocess(recipe, german)
    assert texts_of(tmp_path / "de", tiny_tokenizer) == [b for _, b in pairs]
    interrupt_after(monkeypatch, 1, tmp_path / "x", recipe, {tmp_path / "x": german[tmp_path / "de"]}, 1, 0)
    preprocess(recipe, {tmp_path / "x": german[tmp_path / "de"]}, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "de")


@pytest.mark.parametrize("way", WAYS)
def test_a_field_that_is_not_there_is_named(tmp_path, recipe, pairs, way):
    path = WAYS[way](tmp_path, as_rows(pairs))
    known = r"there are (\[)?'?id'?, '?translation\.de'?, '?translation\.en'?"
    with pytest.raises(DataError, match=rf"no (key|column) '?translation\.fr'?; {known}"):
        preprocess(recipe, {tmp_path / "o": paired([path], Pairing("en", "fr"))})


def test_bad_records(tmp_path, recipe):
    rows = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a", "de": None}}, {"translation": {"en": "a"}}]
    rows += [{"translation": "a"}, {"translation": None}, {"translation": {"en": "a", "de": ["b"]}}, []]
    expected = ["wrong_type", "missing_key", "missing_key", "missing_key", "wrong_type", "wrong_type"]
    preprocess(recipe, {tmp_path / "o": paired([write_jsonl(tmp_path, rows)], ENGLISH_TO_GERMAN)}, 1, 9)
    found = [json.loads(line) for line in gzip.open(rejected_path(tmp_path / "o_text_document"))]
    assert [(record["line"], record["reason"]) for record in found] == list(enumerate(expected, 2))
    rows = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "a", "de": None}}, {"translation": None}]
    preprocess(recipe, {tmp_path / "p": paired([write_parquet(tmp_path, rows)], ENGLISH_TO_GERMAN)}, 1, 9)
    found = [json.loads(line) for line in gzip.open(rejected_path(tmp_path / "p_text_document"))]
    assert [(record["line"], record["reason"]) for record in found] == [(2, "wrong_type"), (3, "wrong_type")]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_key_with_a_dot_is_that_key_first(tmp_path, recipe, tiny_tokenizer, write):
    path = write(tmp_path, [{"a.b": "Wasser", "a": {"b": "Brot", "c.d": {"e": "Haus"}}}] * 3)
    for key, text in (("a.b", "Wasser"), ("a.c.d.e", None)):
        jobs = {tmp_path / key: [as_input(path, keys=(key,))]}
        if text:
            preprocess(recipe, jobs)
            assert texts_of(tmp_path / key, tiny_tokenizer) == [text] * 3
        else:  # dots part one name after the other
            with pytest.raises(UserError, match=r"no (key|column) '?a\.c\.d\.e"):
                preprocess(recipe, jobs)


def test_the_command_and_a_list(tmp_path, tiny_tokenizer, pairs):
    write_jsonl(tmp_path, as_rows(pairs))
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tiny_tokenizer, "--append-eod"]
    given = ["--input", tmp_path / "x.jsonl.gz", "--pair", "en-de"]
    tool("preprocess_data.py", *given, "--output-prefix", tmp_path / "a", *tokenizer)
    keys = ["--json-keys", "translation.en", "translation.de"]
    tool("preprocess_data.py", *given, *keys, "--output-prefix", tmp_path / "b", *tokenizer, "--workers", "2")
    source = '[[source]]\nname = "c"\ninput = ["x.jsonl.gz"]\ndirection = "en-de"\n'
    (tmp_path / "list.toml").write_text(source)
    preprocess(Recipe("HuggingFaceTokenizer", tiny_tokenizer), read_sources(tmp_path / "list.toml", tmp_path))
    manifests = [read_manifest(tmp_path / f"{name}_text_document") for name in "abc"]
    assert len({manifest["xxh128"] for manifest in manifests}) == 1
    assert texts_of(tmp_path / "a", tiny_tokenizer)[0] == "<en2de> {} <de> {}".format(*pairs[0])


def test_too_many_or_too_few_keys_for_a_pair(tmp_path, recipe, pairs):
    path = write_jsonl(tmp_path, as_rows(pairs))
    for keys in (("translation",), ("a", "b", "c")):
        with pytest.raises(UserError, match="give --json-keys with two keys"):
            preprocess(recipe, {tmp_path / "o": paired([path], ENGLISH_TO_GERMAN, keys)})
