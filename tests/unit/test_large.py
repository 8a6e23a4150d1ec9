"""What is too large for memory, or for 32 bits: a line of 200 MB, files of more than 2^31 tokens and 2^32 bytes."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from megatron_lmt.data.indexed import Index, IndexedReader, bin_path, idx_path, read_manifest, rejected_path
from megatron_lmt.data.indexed_writer import IndexedWriter, TokensFile
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.merge import merge_indexes
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe
from megatron_lmt.runtime.device import open_device
from tests.conftest import REPOSITORY

LINES = [b'{"text": "Wasser und Brot"}\n'] * 3
HUGE = 200_000_000


def write_with_a_huge_line(path) -> None:
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else open(path, "wb") as file:
        file.writelines(LINES)
        file.write(b'{"text": "')
        for _ in range(HUGE // 1_000_000):
            file.write(b"word " * 200_000)
        file.write(b'"}\n')
        file.writelines(LINES)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_line_of_200_mb_is_rejected_in_little_memory(tmp_path, tiny_tokenizer, name):
    write_with_a_huge_line(tmp_path / name)
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer), "--append-eod"]
    files = ["--input", name, "--output-prefix", "o"]
    command = [sys.executable, str(REPOSITORY / "tools/preprocess_data.py"), *tokenizer, *files]
    limit = partial(resource.setrlimit, resource.RLIMIT_DATA, (400_000_000, 400_000_000))
    run = partial(subprocess.run, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, timeout=60)
    failed = run(command)
    message = f"{name}:4: 200,000,013 bytes, more than --max-document-bytes 8000000; its beginning is kept"
    assert failed.returncode == 2 and f"error: {message}; mend the line, or add --on-bad-line quarantine" in failed.stderr
    done = run([*command, "--on-bad-line", "quarantine"])
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "o_text_document")
    assert manifest["documents"] == 6 and manifest["rejected"] == {"too_long": 1}
    (record,) = (json.loads(line) for line in gzip.open(rejected_path(tmp_path / "o_text_document")))
    assert (record["line"], record["message"]) == (4, message) and record["raw"].startswith('{"text": "word word')
    assert len(record["raw"]) == text_files.KEPT_BYTES


@pytest.mark.parametrize("chunk_bytes", [1, 7, 20, 64, 1000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_lines_at_the_limit(tmp_path, tiny_tokenizer, monkeypatch, chunk_bytes, end):
    """Lines of 20 to 40 bytes, of which 30 are allowed, and chunks that end anywhere in them."""
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk_bytes)
    lines = [b"x" * length for length in (20, 31, 30, 29, 40, 40, 30, 31, 20)]
    (tmp_path / "x.txt").write_bytes(b"\n".join(lines) + end)
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer, max_bytes=30)
    (manifest,) = preprocess(recipe, {tmp_path / "o": [tmp_path / "x.txt"]}, 1, 100)
    empty = {"empty": 1} if end == b"\n\n" else {}
    assert manifest["documents"] == 5 and manifest["rejected"] == {**empty, "too_long": 4}
    records = [json.loads(line) for line in gzip.open(rejected_path(tmp_path / "o_text_document"))]
    assert [record["line"] for record in records if record["reason"] == "too_long"] == [2, 5, 6, 8]


def test_long_texts_in_rows_are_too_long(tmp_path, tiny_tokenizer):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({"text": ["x" * 31, "x" * 30]}), tmp_path / "x.parquet")
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer, max_bytes=30)
    with pytest.raises(DataError, match=r"x\.parquet:1: 31 bytes, more than --max-document-bytes 30"):
        preprocess(recipe, {tmp_path / "o": [tmp_path / "x.parquet"]})


def test_more_tokens_and_bytes_than_32_bits_count(tmp_path):
    """A sparse .bin of 9.6 GB that holds 2.4 billion tokens: documents beyond 2^31 tokens and 2^32 bytes are found."""
    length, documents = 600_000_000, 4
    writer = IndexedWriter(tmp_path / "x", np.int32)
    for number in range(documents):
        _add_sparse_document(writer, length, last_token=number + 1)
    counts = writer.close()
    assert counts["tokens"] == length * documents > 2**31 and counts["bin_bytes"] == 4 * length * documents > 2**32
    assert bin_path(tmp_path / "x").stat().st_size == counts["bin_bytes"]
    assert bin_path(tmp_path / "x").stat().st_blocks * 512 < 10_000_000
    open_device()  # another test of this process may need it, and it must come before megatron-core
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    reader, theirs = IndexedReader(tmp_path / "x"), IndexedDataset(str(tmp_path / "x"))
    assert reader.num_tokens == length * documents
    assert reader.pointers.tolist() == [4 * length * number for number in range(documents)]
    for number in range(documents):
        document = reader.document(number)
        assert len(document) == length and document[-2:].tolist() == [0, number + 1]
        assert theirs.get(number, offset=length - 2).tolist() == [0, number + 1]
    assert idx_path(tmp_path / "x").stat().st_size == counts["idx_bytes"]


def _add_sparse_document(writer: IndexedWriter, length: int, last_token: int) -> None:
    """As `add_documents` does, but leaving a hole where its zeros are; they are not hashed."""
    writer._tokens._file.seek(4 * (length - 1), 1)
    writer._tokens._file.write(np.int32(last_token))
    writer._lengths.append(length)
    writer._documents.append(len(writer._lengths))


def test_parts_of_more_than_32_bits_are_merged(tmp_path):
    length, parts = 1_200_000_000, []
    tokens = TokensFile(bin_path(tmp_path / "x"))
    for number in range(2):
        writer = IndexedWriter(tmp_path / f"{number}", np.int32, tokens=tokens)
        _add_sparse_document(writer, length, number + 1)
        parts.append((tmp_path / f"{number}", writer.close()))
    tokens.close()
    assert merge_indexes(parts, tmp_path / "x")["bin_bytes"] == 2 * length * 4 > 2**32
    reader = IndexedReader(tmp_path / "x")
    assert reader.num_tokens == 2 * length > 2**31 and reader.pointers.tolist() == [0, 4 * length]
    assert reader.first_sequences.tolist() == [0, 1, 2]
    assert [reader.document(number)[-1] for number in range(2)] == [1, 2]


MERGE = """
import resource, sys
from pathlib import Path
import numpy as np
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.preprocessing.merge import merge_indexes

folder = Path(sys.argv[1])
with IndexedWriter(folder / "part", np.int32) as writer:
    writer.add_documents(np.zeros(500_000, np.int32), np.full((500_000, 1), 1))
    part = folder / "part", writer.close()
(used,) = [int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData")]
resource.setrlimit(resource.RLIMIT_DATA, (used + 80_000_000, used + 80_000_000))
print(merge_indexes([part] * 20, folder / "whole")["tokens"])
"""


def test_merging_takes_the_memory_of_one_part(tmp_path):
    """200 MB of index, with 80 MB more than the process had."""
    done = subprocess.run([sys.executable, "-c", MERGE, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    index = Index(idx_path(tmp_path / "whole"))
    assert int(done.stdout) == 10_000_000 == len(index.lengths)
    assert index.pointers[-1] == 4 * 9_999_999 and index.first_sequences[-1] == 10_000_000
