"""The benchmark of preprocessing: its text, and that both sides write the same bytes. Nothing is said about how fast."""

import gzip
import json
from argparse import Namespace

import pytest

from benchmarks.preprocess import AGAIN, TEXTS, _bare, _hashes, _ours, _peer, _timed
from benchmarks.preprocess_text import write_text
from megatron_lmt.errors import DataError


@pytest.fixture
def texts(tmp_path):
    for folder in ("data/mono", "data/bilingual", "texts"):
        (tmp_path / folder).mkdir(parents=True)
    documents = "".join(json.dumps({"text": f"word {n} " * 9}) + "\n" for n in range(12_000))
    (tmp_path / "data/mono/mono.en.jsonl.gz").write_bytes(gzip.compress(documents.encode()))
    pairs = "".join(f"water {n}\tWasser {n}\ttag\n" for n in range(30_000))
    (tmp_path / "data/bilingual/en-de.tsv.gz").write_bytes(gzip.compress(pairs.encode()))
    return write_text(tmp_path / "data", tmp_path / "texts", 1)


def test_the_text_is_as_large_as_asked_for(tmp_path, texts):
    assert set(texts) == {*TEXTS, AGAIN}
    lines = {name: path.read_bytes().splitlines() for name, path in texts.items()}
    assert len(lines["one"]) == 1 and len(lines["all"]) == 42_000
    assert lines["all"][: len(lines["half"])] == lines["half"] and len(lines["half"]) == 21_000
    assert lines[AGAIN] == 4 * lines["all"]
    for name in ("short", "long"):
        assert 0.99e6 < texts[name].stat().st_size < 1.01e6 and set(lines[name]) < set(lines["all"])
    assert json.loads(lines["short"][0])["text"].startswith("<en2de> water ")
    with pytest.raises(DataError, match="less text than --megabytes 5: short .*, long .* bytes"):
        write_text(tmp_path / "data", tmp_path / "texts", 5)


def test_both_sides_write_the_same_bytes(tmp_path, texts, quickstart_tokenizer):
    arguments, out = Namespace(workers=2), tmp_path / "out"
    peer = _timed(_peer(arguments, quickstart_tokenizer, texts["short"], out))
    written = _hashes(out, "")
    ours = _timed(_ours(arguments, quickstart_tokenizer, texts["short"], out, "standard"))
    assert _hashes(out, "_text_document") == written
    assert min(*peer.values(), *ours.values()) > 0
    bare = _bare(arguments, quickstart_tokenizer, texts["short"], "standard")
    assert bare["tokens"] > 100_000 and bare["s"] > 0
