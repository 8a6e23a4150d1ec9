"""Every kind of input gives the same documents; what is cut off or wrong in it is named."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import xxhash
import zstandard
from datasets import Dataset, DatasetDict

from megatron_lmt.data.indexed import IndexedReader, bin_path, idx_path, rejected_path
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, UserError
from megatron_lmt.preprocessing import shards as shards_module
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.inputs import expand, sources_in, xxh128_of
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.records import read_lines
from megatron_lmt.preprocessing.tokenising import Recipe
from tests.conftest import REPOSITORY
from tests.unit.test_resume_preprocess import interrupt_after, result

TEXTS = [
    f"{start} {n} " * (n % 5 + 1) for n in range(60) for start in ("Wasser", "水", "\u202f\u180e\u200d ᠮᠣᠩ", "a\u2028b\r c")
]


def as_jsonl(texts: list) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


def frames(content: bytes) -> bytes:
    """Several zstandard frames, one of them without its size in its header."""
    half = len(content) // 2
    stream = zstandard.ZstdCompressor().compressobj()
    return zstandard.compress(content[:half]) + stream.compress(content[half:]) + stream.flush()


def as_parquet(path: Path, texts: list) -> None:
    """Two row groups."""
    table = pa.table({"id": range(len(texts)), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=len(texts) // 2)


KINDS = {
    "x.jsonl": lambda path, texts: path.write_bytes(as_jsonl(texts)),
    "x.json.gz": lambda path, texts: path.write_bytes(gzip.compress(as_jsonl(texts))),
    "x.jsonl.zst": lambda path, texts: path.write_bytes(frames(as_jsonl(texts))),
    "x.txt": lambda path, texts: path.write_text("\n".join(texts), encoding="utf-8", newline="\n"),
    "x.txt.zst": lambda path, texts: path.write_bytes(zstandard.compress(("\n".join(texts) + "\n").encode())),
    "x.parquet": as_parquet,
    "x": lambda path, texts: Dataset.from_dict({"text": texts, "id": texts}).save_to_disk(path, num_shards=3),
}


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("chunk_bytes", [200, 1 << 20])
def test_each_kind_gives_the_same_documents(tmp_path, recipe, monkeypatch, name, chunk_bytes):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk_bytes)
    KINDS[name](tmp_path / name, TEXTS)
    preprocess(recipe, sources_in(tmp_path, tmp_path / "out"))
    reader = IndexedReader(tmp_path / "out/x_text_document")
    tokenizer = load_tokenizer(recipe.tokenizer_type, recipe.tokenizer_model)
    found = [tokenizer.decode(reader.document(i).tolist()[:-1]) for i in range(reader.num_documents)]
    assert found == TEXTS


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shards", [1, 5])
def test_each_kind_goes_on_after_an_interruption(tmp_path, recipe, monkeypatch, name, shards):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 300)
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 1000)
    KINDS[name](tmp_path / name, TEXTS)
    (tmp_path / "y.jsonl").write_bytes(as_jsonl(TEXTS[:5]))
    inputs = [tmp_path / name, tmp_path / "y.jsonl"]
    (tmp_path / "whole").mkdir()
    preprocess(recipe, {tmp_path / "whole/z": inputs})
    interrupt_after(monkeypatch, shards, tmp_path / "z", recipe, {tmp_path / "z": inputs})
    preprocess(recipe, {tmp_path / "z": inputs}, resume=True)
    assert result(tmp_path / "z") == result(tmp_path / "whole/z")


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_bad_rows_are_set_aside(tmp_path, recipe, name):
    texts = pa.array([b"good", b"", None, b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    table = pa.table({"text": texts})
    if name == "x":
        Dataset(table).save_to_disk(tmp_path / name)
    else:
        pyarrow.parquet.write_table(table, tmp_path / name)
    (manifest,) = preprocess(recipe, {tmp_path / "out": [tmp_path / name]}, max_bad_lines=3)
    assert (manifest["documents"], manifest["rejected"]) == (2, {"empty": 1, "not_utf8": 1, "wrong_type": 1})
    records = [json.loads(line) for line in gzip.open(rejected_path(tmp_path / "out_text_document"))]
    assert [(record["line"], record["reason"]) for record in records] == [(2, "empty"), (3, "wrong_type"), (4, "not_utf8")]
    assert records[2]["raw"] == '{"text": "caf\\\\xe9"}'
    with pytest.raises(DataError, match=rf"{name}:2: 'text' is '', not a text"):
        preprocess(recipe, {tmp_path / "other": [tmp_path / name]})


def test_bad_lines_of_plain_text(tmp_path, recipe):
    (tmp_path / "x.txt").write_bytes(b"one\n\ncaf\xe9\n{\n")
    (manifest,) = preprocess(recipe, {tmp_path / "x": [tmp_path / "x.txt"]}, max_bad_lines=3)
    assert (manifest["documents"], manifest["rejected"]) == (2, {"empty": 1, "not_utf8": 1})


@pytest.mark.parametrize("name", ["x.jsonl.zst", "x.parquet"])
@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 3], lambda c: c[:-1], lambda c: b"no " + c])
def test_a_damaged_file_is_named(tmp_path, recipe, name, damage):
    KINDS[name](tmp_path / name, TEXTS * 100)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=rf"{name}: (damaged zstandard file after line \d|cannot be read)"):
        preprocess(recipe, {tmp_path / "out/x": [tmp_path / name]})
    assert not list(tmp_path.glob("out/*"))


def test_corpus_builders_read_zstandard_too(tmp_path):
    (tmp_path / "x.zst").write_bytes(frames("\n".join(TEXTS).encode()))
    assert [line for _, line in read_lines(tmp_path / "x.zst")] == TEXTS
    (tmp_path / "x.zst").write_bytes(frames("\n".join(TEXTS).encode())[:-9])
    with pytest.raises(DataError, match=r"x\.zst:\d+: damaged zstandard file"):
        list(read_lines(tmp_path / "x.zst"))


def test_folders_and_patterns(tmp_path):
    for name in ("b.jsonl", "a.txt.gz", "sub/c.parquet", "sub/README.md", "corpus.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    KINDS["x"](tmp_path / "saved", TEXTS[:3])
    names = ["a.txt.gz", "b.jsonl", "sub/c.parquet"]
    assert expand([tmp_path / "sub", tmp_path / "b.jsonl"]) == [tmp_path / "sub/c.parquet", tmp_path / "b.jsonl"]
    assert expand([tmp_path / "*.*"]) == [tmp_path / name for name in names[:2]]
    assert expand([tmp_path / "**/*.p*"]) == [tmp_path / "sub/c.parquet"]
    assert expand([tmp_path / "saved"]) == [tmp_path / "saved"]
    KINDS["x"](tmp_path / "sub/deep/saved", TEXTS[:3])
    found = ["a.txt.gz", "b.jsonl", "saved", "sub/c.parquet", "sub/deep/saved"]
    assert expand([tmp_path]) == [tmp_path / name for name in found]  # not the files that `datasets` writes
    with pytest.raises(ConfigError) as error:
        expand([tmp_path / "*.md", tmp_path / "none*"])
    assert len(error.value.problems) == 2
    assert {prefix.name for prefix in sources_in(tmp_path, Path("out"))} == {"a", "b", "saved"}


def test_the_hash_of_a_folder_is_that_of_its_files(tmp_path):
    KINDS["x"](tmp_path / "x", TEXTS)
    files = sorted(file.name for file in (tmp_path / "x").iterdir())
    listed = [f"{xxhash.xxh3_128_hexdigest((tmp_path / 'x' / file).read_bytes())}  {file}\n" for file in files]
    (tmp_path / "sums").write_text("".join(listed))
    assert xxh128_of(tmp_path / "x") == xxh128_of(tmp_path / "sums")


def test_wrong_inputs(tmp_path, recipe):
    (tmp_path / "x.csv").write_text("a\tb\n")
    with pytest.raises(UserError, match=r"x\.csv: not an input; known are jsonl"):
        preprocess(recipe, {tmp_path / "out": [tmp_path / "x.csv"]})
    DatasetDict(train=Dataset.from_dict({"a": ["x"]}), test=Dataset.from_dict({"a": ["x"]})).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"d: a dataset with the splits test, train; name one, such as .*d/test"):
        preprocess(recipe, {tmp_path / "out": [tmp_path / "d"]})
    with pytest.raises(DataError, match="train: no column text; there are a"):
        preprocess(recipe, {tmp_path / "out": [tmp_path / "d/train"]})
    (tmp_path / "x.txt").write_text("a\n")
    chat = Recipe("HuggingFaceTokenizer", recipe.tokenizer_model, ("prompt", "target"), ("target",))
    with pytest.raises(UserError, match=r"x\.txt: plain text has no keys"):
        preprocess(chat, {tmp_path / "out": [tmp_path / "x.txt"]})


def test_the_command_takes_a_folder_and_a_pattern(tmp_path, tiny_tokenizer):
    (tmp_path / "text").mkdir()
    for name in ("x.jsonl.zst", "x.parquet"):
        KINDS[name](tmp_path / "text" / name, TEXTS)
    tool = [sys.executable, str(REPOSITORY / "tools/preprocess_data.py"), "--append-eod"]
    tool += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer)]
    for name, inputs in (("a", ["text"]), ("b", ["text/*.zst", "text/x.parquet"])):
        command = [*tool, "--input", *inputs, "--output-prefix", name, "--workers", "2"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0 and f"{2 * len(TEXTS)} documents read" in run.stdout, run.stderr
    for path in (bin_path, idx_path):
        assert path(tmp_path / "a_text_document").read_bytes() == path(tmp_path / "b_text_document").read_bytes()
