"""Verification of token files: whole ones pass, and no damage does."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from megatron_lmt.data.indexed import (
    CONTEXT,
    LOSS,
    IndexedReader,
    bin_path,
    idx_path,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megatron_lmt.data.indexed_writer import IndexedWriter
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing import verify as verify_module
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from megatron_lmt.preprocessing.train_tokenizer import train_tokenizer
from megatron_lmt.preprocessing.verify import verify
from megatron_lmt.progress import progress
from tests.conftest import LINES, REPOSITORY

VOCAB_SIZE, EOD = 512, 7


def write(prefix, documents=None, modes=None, eod=EOD) -> None:
    """Token files with a manifest; by default 3,000 documents, 20 kB of tokens and 60 kB of index."""
    if documents is None:
        random = np.random.default_rng(1)
        documents = [[*random.integers(8, VOCAB_SIZE, random.integers(1, 5)), EOD] for _ in range(3000)]
    with IndexedWriter(prefix, np.uint16, with_modes=bool(modes)) as writer:
        for document in documents:
            writer.add_document([document] if not modes else [document[:1], document[1:]], modes)
        counts = writer.close()
    tokenizer = {"type": "T", "identity": "one", "vocab_size": VOCAB_SIZE, "eod": eod}
    write_manifest(prefix, {**counts, "tokenizer": tokenizer, "append_eod": eod is not None})


def problems(prefix, full=True, identity=None) -> list[str]:
    try:
        verify(prefix, full, identity, progress(1, "verifying"))
    except DataError as error:
        return error.problems
    return []


@pytest.fixture(params=[5, 1 << 20], ids=["small blocks", "large blocks"])
def block(request, monkeypatch):
    monkeypatch.setattr(verify_module, "BLOCK", request.param)


@pytest.mark.parametrize("modes", [None, [CONTEXT, LOSS]])
@pytest.mark.parametrize("full", [False, True])
def test_whole_files_are_in_order(tmp_path, block, full, modes):
    write(tmp_path / "x", [[1, 2, 3, EOD], [1, EOD]] * 20, modes)
    assert problems(tmp_path / "x", full, "one") == []


def test_every_flipped_byte_and_truncation_is_found(tmp_path):
    write(tmp_path / "x")
    for path in (bin_path(tmp_path / "x"), idx_path(tmp_path / "x")):
        content = path.read_bytes()
        for place in range(0, len(content), 1000):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert any(str(path) in problem for problem in problems(tmp_path / "x")), (path, place)
        for length in (0, 1, 1000, len(content) - 1, len(content) - 8):
            path.write_bytes(content[:length])
            for full in (False, True):
                assert any(str(path) in problem for problem in problems(tmp_path / "x", full)), (path, length, full)
        path.write_bytes(content)
    assert problems(tmp_path / "x") == []


def test_an_index_of_other_data_is_found(tmp_path):
    write(tmp_path / "x", [[1, 2, EOD], [3, EOD]])
    write(tmp_path / "y", [[1, EOD], [3, 4, EOD]])  # as many documents and tokens
    shutil.copy(idx_path(tmp_path / "y"), idx_path(tmp_path / "x"))
    found = problems(tmp_path / "x")
    assert len(found) == 2 and "x.idx: its xxh128" in found[0]
    assert "x.bin: 1 documents do not end with token 7" in found[1] and "document 0" in found[1]
    write(tmp_path / "z", [[1, EOD], [3, EOD]])
    shutil.copy(idx_path(tmp_path / "z"), idx_path(tmp_path / "x"))
    assert any("10 bytes, but its index counts 8" in problem for problem in problems(tmp_path / "x", full=False))


def test_a_contradiction_in_the_index_is_found_without_hashes(tmp_path, block):
    write(tmp_path / "x", [[1, EOD], [3, EOD], [4, EOD], [5, EOD]] * 3)
    content = idx_path(tmp_path / "x").read_bytes()
    numbers = 34 + 12 * 4  # header and lengths: then pointers, then first sequences
    for place, reason in (
        (numbers + 8 * 7, "wrong place of sequence 7"),
        (34 + 4 * 8, "wrong place of sequence 9"),
        (numbers + 8 * 12 + 8 * 9, "no sequence in document"),
    ):
        damaged = bytearray(content)
        damaged[place] ^= 1
        idx_path(tmp_path / "x").write_bytes(damaged)
        assert any(reason in problem for problem in problems(tmp_path / "x", full=False)), reason


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ([[1, EOD]] * 7 + [[1, 2]] + [[2, EOD]] * 7 + [[3]], "2 documents do not end with token 7, .* is document 7;"),
        ([[1, EOD]] * 7 + [[]] + [[2, EOD]], "no token in document 7;"),
        ([[1, EOD], [VOCAB_SIZE, VOCAB_SIZE - 1, EOD]] * 6, "6 token ids outside the vocabulary of 512"),
    ],
)
def test_wrong_documents_are_found(tmp_path, block, documents, reason):
    write(tmp_path / "x", documents)
    assert len(problems(tmp_path / "x")) == 1
    with pytest.raises(DataError, match=reason):
        verify(tmp_path / "x", True, None, progress(1, "verifying"))


def test_documents_need_an_end_only_if_they_were_given_one(tmp_path):
    write(tmp_path / "x", [[1, 2], [3]], eod=None)
    assert problems(tmp_path / "x") == []


def test_a_manifest_that_counts_otherwise_is_found(tmp_path):
    write(tmp_path / "x", [[1, 2, EOD], [3, EOD]], [CONTEXT, LOSS])
    whole = read_manifest(tmp_path / "x")
    for key in ("documents", "sequences", "tokens", "loss_tokens", "bin_bytes", "idx_bytes"):
        write_manifest(tmp_path / "x", {**whole, key: whole[key] + 1})
        (problem,) = problems(tmp_path / "x", full=False)
        assert f"{whole[key] + 1}" in problem
    write_manifest(tmp_path / "x", {key: value for key, value in whole.items() if key != "xxh128"})
    assert "does not say xxh128" in problems(tmp_path / "x")[0]
    manifest_path(tmp_path / "x").unlink()
    assert "unfinished" in problems(tmp_path / "x")[0]


def test_the_command(tmp_path, tiny_tokenizer):
    texts = tmp_path / "text.jsonl"
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer)
    preprocess(recipe, {tmp_path / name: [texts] for name in ("a", "b")})
    prefixes = [str(tmp_path / f"{name}_text_document") for name in ("a", "b")]
    (tmp_path / "text.txt").write_text("\n".join(LINES[:3]))
    train_tokenizer([tmp_path / "text.txt"], ["text"], 300, tmp_path / "other")

    def run(*arguments):
        command = [sys.executable, str(REPOSITORY / "tools/verify_data.py"), *prefixes, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    tokenizer = ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model")
    result = run("--full", *tokenizer, tiny_tokenizer)
    assert result.returncode == 0 and "100 %" in result.stderr
    tokens = f"{read_manifest(prefixes[0])['tokens']:,} tokens"
    expected = f"{len(LINES)} documents, {len(LINES)} sequences, {tokens}; sizes, index, hashes, token ids: in order"
    assert result.stdout.splitlines() == [f"{prefix}: {expected}" for prefix in prefixes]
    assert run(bin_path(prefixes[0])).stdout.count(f"{prefixes[0]}: ") == 1  # each once
    result = run(*tokenizer, tmp_path / "other")
    assert result.returncode == 1 and result.stderr.count("error: ") == 2 and "made with tokenizer" in result.stderr
    bin_path(prefixes[1]).write_bytes(bin_path(prefixes[1]).read_bytes()[:-2])
    result = run()
    assert result.returncode == 1 and result.stdout.startswith(prefixes[0]) and result.stdout.count("\n") == 1
    assert f"error: {bin_path(prefixes[1])}: " in result.stderr and "Traceback" not in result.stderr
    assert run("--tokenizer-type", "HuggingFaceTokenizer").returncode == 2


def verify_data(*arguments):
    command = [sys.executable, REPOSITORY / "tools/verify_data.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_a_folder_stands_for_all_that_is_in_it_even_if_only_an_index_is_left(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}_text_document", [[1, 2, EOD]])
    for path in (bin_path, manifest_path):
        path(tmp_path / "c_text_document").unlink()
    result = verify_data(tmp_path, idx_path(tmp_path / "a_text_document"))
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"{tmp_path}/{n}_text_document" for n in "ab"]
    assert result.returncode == 1 and "c_text_document.manifest.json: no such file" in result.stderr


def test_what_is_no_prefix_is_said_with_the_prefixes_that_could_be_meant(tmp_path):
    write(tmp_path / "tokens_a_text_document", [[1, 2, EOD]])
    (tmp_path / "empty").mkdir()
    result = verify_data(tmp_path / "empty", tmp_path / "tokens_a", tmp_path / "x")
    assert result.returncode == 1 and result.stderr.count("error: ") == 3 and "manifest" not in result.stderr
    assert f"{tmp_path}/empty is a folder; no token files are in it" in result.stderr
    assert f"{tmp_path}/tokens_a.idx: no such file; there is {tmp_path}/tokens_a_text_document\n" in result.stderr
    assert f"{tmp_path}/x.idx: no such file (a prefix is the path without .bin and .idx)" in result.stderr
    with pytest.raises(DataError, match=f"{tmp_path} is a folder; name a prefix in it: {tmp_path}/tokens_a_text_document"):
        IndexedReader(tmp_path)
