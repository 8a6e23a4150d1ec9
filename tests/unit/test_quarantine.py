"""Bad lines set aside: every record that was read is written or kept with its reason, up to a limit."""

import dataclasses
import gzip
import json
import subprocess
import sys

import pytest

from megatron_lmt.data.indexed import IndexedReader, bin_path, idx_path, read_manifest, rejected_path
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
from tests.conftest import REPOSITORY

LONG = "Wasser und Brot " * 40
BAD = {
    b'{"text": "cut': "broken_json",
    b"": "broken_json",
    b"[" * 100_000: "broken_json",
    b'["a"]': "wrong_type",
    b"3": "wrong_type",
    b'{"text": null}': "wrong_type",
    b'{"txt": "a"}': "missing_key",
    b'{"text": " \\n"}': "empty",
    b'{"text": "caf\xe9"}': "not_utf8",
    b'{"text": "a \\ud800 b"}': "lone_surrogate",
    json.dumps({"text": LONG}).encode(): "too_long",
}


def good(number: int) -> bytes:
    return json.dumps({"text": f"Wasser {number}"}).encode()


@pytest.fixture
def mixed(tmp_path):
    """Two files in which every second line is bad, in all ways; the last line of each has no line end."""
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"]
    for number, file in enumerate(files):
        lines = [line for i, bad in enumerate(BAD) for line in (bad, good(100 * number + i))]
        content = b"\n".join(lines)
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return files


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer, max_tokens=100)


def rejected(prefix) -> list[dict]:
    with gzip.open(rejected_path(prefix), "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(("workers", "chunk_bytes"), [(1, 1 << 20), (1, 50), (3, 50)])
def test_what_was_read_was_written_or_rejected(tmp_path, recipe, mixed, monkeypatch, workers, chunk_bytes):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk_bytes)
    (manifest,) = preprocess(recipe, {tmp_path / "x": mixed}, workers, max_bad_lines=2 * len(BAD))
    prefix = tmp_path / "x_text_document"
    records = rejected(prefix)
    places = [(str(file), 2 * i + 1, reason) for file in mixed for i, reason in enumerate(BAD.values())]
    assert [(record["file"], record["line"], record["reason"]) for record in records] == places
    assert [record["raw"] for record in records] == 2 * [line.decode("utf-8", "backslashreplace") for line in BAD]
    assert all(record["message"].startswith(f"{record['file']}:{record['line']}: ") for record in records)
    reader, tokenizer = IndexedReader(prefix), load_tokenizer("HuggingFaceTokenizer", recipe.tokenizer_model)
    found = [tokenizer.decode(reader.document(i).tolist()[:-1]) for i in range(reader.num_documents)]
    assert found == [f"Wasser {100 * number + i}" for number in (0, 1) for i in range(len(BAD))]
    assert manifest["documents_read"] == manifest["documents"] + manifest["documents_rejected"] == 4 * len(BAD)
    assert manifest["rejected"] == {
        "broken_json": 6, "empty": 2, "lone_surrogate": 2, "missing_key": 2, "not_utf8": 2, "too_long": 2, "wrong_type": 6
    }  # fmt: skip


ALONE = BAD | {b'{"text": ""}': "empty", b",".join([good(3), good(4), good(5)]): "broken_json"}


@pytest.mark.parametrize("bad, reason", ALONE.items(), ids=ALONE.values())
def test_one_bad_line_among_good_ones_is_found(tmp_path, recipe, bad, reason):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good(1), bad, good(2), b""]))
    (manifest,) = preprocess(recipe, {tmp_path / "x": [tmp_path / "a.jsonl"]}, max_bad_lines=1)
    (record,) = rejected(tmp_path / "x_text_document")
    assert (record["line"], record["reason"], manifest["documents"]) == (2, reason, 2)


def test_a_line_of_too_many_bytes_among_good_ones_is_found(tmp_path, recipe):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good(1), json.dumps({"text": LONG}).encode(), good(2)]))
    recipe = dataclasses.replace(recipe, max_tokens=None, max_bytes=100)
    (manifest,) = preprocess(recipe, {tmp_path / "x": [tmp_path / "a.jsonl"]}, max_bad_lines=1)
    assert manifest["documents"] == 2 and manifest["rejected"] == {"too_long": 1}


IN_TWO = {
    "list": (b'{"text": "a", "b": [{}', b'{}], "text": "b"}'),
    "string": (b'{"text": "a}', b'{", "text": "b"}'),
    "object": (b'{"text": "a"', b'"text": "b"}'),
}


@pytest.mark.parametrize("first, second", IN_TWO.values(), ids=IN_TWO)
def test_lines_that_are_no_records_do_not_become_some_together(tmp_path, recipe, first, second):
    """Between commas there are as many records as lines."""
    lines = [good(1), first, second, good(2) + b"," + good(3), good(4)]
    assert len(json.loads(b"[" + b",".join(lines) + b"]")) == len(lines)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (manifest,) = preprocess(recipe, {tmp_path / "x": [tmp_path / "a.jsonl"]}, max_bad_lines=5)
    assert [record["line"] for record in rejected(tmp_path / "x_text_document")] == [2, 3, 4]
    assert manifest["documents"] == 2 and manifest["rejected"] == {"broken_json": 3}


def test_the_same_bytes_for_any_number_of_workers(tmp_path, recipe, mixed, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 50)
    contents = []
    for workers in (1, 3):
        preprocess(recipe, {tmp_path / f"{workers}": mixed}, workers, max_bad_lines=100)
        prefix = tmp_path / f"{workers}_text_document"
        contents.append([path(prefix).read_bytes() for path in (bin_path, idx_path, rejected_path)])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_more_than_the_limit_is_an_error_that_leaves_nothing(tmp_path, recipe, mixed, workers):
    with pytest.raises(DataError, match=r"two\.jsonl\.gz:21: .*more than --max-bad-lines 21 \(broken_json 6, ") as error:
        preprocess(recipe, {tmp_path / "out" / "x": mixed}, workers, max_bad_lines=2 * len(BAD) - 1)
    assert "too_long 2" in str(error.value) and not list((tmp_path / "out").iterdir())


def test_without_bad_lines_there_is_no_file_of_them(tmp_path, recipe):
    (tmp_path / "a.jsonl").write_bytes(good(1) + b"\n")
    (manifest,) = preprocess(recipe, {tmp_path / "x": [tmp_path / "a.jsonl"]}, max_bad_lines=5)
    assert (manifest["documents_read"], manifest["documents_rejected"], manifest["rejected"]) == (1, 0, {})
    assert not rejected_path(tmp_path / "x_text_document").exists()


def test_nothing_but_bad_lines_is_an_error(tmp_path, recipe):
    (tmp_path / "a.jsonl").write_bytes(b"[]\n{\n")
    with pytest.raises(
        DataError, match=r"no document in it that can be used \(broken_json 1, wrong_type 1\)|wrong_type 1, "
    ):
        preprocess(recipe, {tmp_path / "out" / "x": [tmp_path / "a.jsonl"]}, max_bad_lines=5)
    assert not list((tmp_path / "out").iterdir())


def test_a_rejected_file_is_not_written_over(tmp_path, recipe, mixed):
    rejected_path(tmp_path / "x_text_document").write_text("precious")
    with pytest.raises(Exception, match=r"rejected\.jsonl\.gz exists already"):
        preprocess(recipe, {tmp_path / "x": mixed}, max_bad_lines=100)
    assert rejected_path(tmp_path / "x_text_document").read_text() == "precious"


def test_the_command(tmp_path, tiny_tokenizer, mixed):
    def run(*options):
        tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer), "--append-eod"]
        files = ["--input", *map(str, mixed), "--output-prefix", "x"]
        command = [sys.executable, str(REPOSITORY / "tools/preprocess_data.py"), *tokenizer, *files, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    result = run()
    assert (
        result.returncode == 2 and "one.jsonl:1: not JSON" in result.stderr and "--on-bad-line quarantine" in result.stderr
    )
    quarantine = ("--on-bad-line", "quarantine", "--max-tokens", "100")
    result = run(*quarantine, "--max-bad-lines", "21")
    assert result.returncode == 2 and "more than --max-bad-lines 21" in result.stderr
    result = run(*quarantine)
    assert result.returncode == 0, result.stderr
    expected = (
        f"1 sources, {4 * len(BAD)} documents read = {2 * len(BAD)} written + {2 * len(BAD)} rejected (broken_json 6, "
    )
    assert result.stdout.splitlines()[-1].startswith(expected)
    assert read_manifest(tmp_path / "x_text_document")["documents_rejected"] == len(rejected(tmp_path / "x_text_document"))
