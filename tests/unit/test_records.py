"""Lines, documents, pairs and aligned files: nothing altered, everything wrong named with its file and line."""

import gzip
import json

import pytest

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.records import read_aligned, read_documents, read_lines, read_pairs

HARD = "a\u2028b\u0085c\u202fᠠ\u180e\u200d\r x\u000be\u0301"


def write(path, *lines):
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_lines_end_at_newline_only_and_are_not_altered(tmp_path, name):
    assert list(read_lines(write(tmp_path / name, HARD, " b "))) == [(1, HARD), (2, " b ")]


def test_the_last_line_needs_no_newline(tmp_path):
    (tmp_path / "x").write_text("a\nb")
    assert [line for _, line in read_lines(tmp_path / "x")] == ["a", "b"]


def test_documents_pairs_and_aligned_lines(tmp_path):
    documents = write(tmp_path / "d.jsonl.gz", json.dumps({"text": HARD, "lang": "mvf"}))
    assert list(read_documents(documents)) == [(1, HARD)]
    assert list(read_documents(write(tmp_path / "d.txt", "one", "two"))) == [(1, "one"), (2, "two")]
    assert list(read_pairs(write(tmp_path / "p.tsv.gz", "a\tb\tsource tag"))) == [(1, "a", "b")]
    files = [write(tmp_path / "en.txt", "1", "2"), write(tmp_path / "ky.gz", "бир", "эки")]
    assert list(read_aligned(files)) == [(1, ["1", "бир"]), (2, ["2", "эки"])]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a list, not a JSON object"),
        ('{"txt": "a"}', "no key 'text'"),
        ('{"text": 3}', "is 3, not a text"),
        ('{"text": " "}', "not a text"),
        ('{"text": "\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_document_is_named(tmp_path, line, message):
    file = write(tmp_path / "d.jsonl", '{"text": "fine"}', line)
    with pytest.raises(DataError, match=rf"d\.jsonl:2: .*{message}"):
        list(read_documents(file))


@pytest.mark.parametrize("line", ["only one side", "a\t", "\tb", "a\t \tc"])
def test_a_bad_pair_is_named(tmp_path, line):
    with pytest.raises(DataError, match=r"p\.tsv:2: needs two columns"):
        list(read_pairs(write(tmp_path / "p.tsv", "a\tb", line)))


def test_files_that_are_not_aligned_are_named(tmp_path):
    long, short = write(tmp_path / "long", "1", "2", "3"), write(tmp_path / "short", "1", "2")
    for files in ([long, short], [short, long]):
        with pytest.raises(DataError, match="short: ends before line 3") as caught:
            list(read_aligned(files))
        assert f"{long} 3" in str(caught.value) and f"{short} 2" in str(caught.value)
    with pytest.raises(DataError, match="gap:2: an empty line"):
        list(read_aligned([short, write(tmp_path / "gap", "1", " ")]))


def test_broken_bytes_are_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match="latin:2: not UTF-8"):
        list(read_lines(tmp_path / "latin"))
    whole = gzip.compress(b"text\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.gz:\d+: damaged gzip file"):
        list(read_lines(tmp_path / "cut.gz"))
