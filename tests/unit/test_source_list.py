"""Pairs from tsv, aligned files and TMX, names on the hub, and a list of sources in one call."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from megatron_lmt.corpus.cpt import build_cpt_corpus
from megatron_lmt.corpus.source_list import read_sources
from megatron_lmt.data.indexed import IndexedReader, bin_path, idx_path, read_manifest, rejected_path
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import ConfigError, DataError, UserError
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.inputs import Input, as_input, paired, sources_in
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe
from tests.conftest import REPOSITORY
from tests.end_to_end.processes import tool
from tests.unit.test_resume_preprocess import interrupt_after, result

PAIRS = [(f"water {n} " * (n % 4 + 1), f"Wasser {n}\u202f\u200d") for n in range(60)]
ENGLISH_TO_GERMAN = Pairing("en", "de")


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


def texts_of(prefix: Path, tokenizer: Path) -> list[str]:
    reader, fast = IndexedReader(Path(f"{prefix}_text_document")), load_tokenizer("HuggingFaceTokenizer", tokenizer)
    return [fast.decode(reader.document(i)[:-1].tolist()) for i in range(reader.num_documents)]


def rejects_of(prefix: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.open(rejected_path(Path(f"{prefix}_text_document")))]


def write_tsv(folder: Path, pairs: list) -> list[Path]:
    (folder / "x.tsv").write_text("".join(f"{a}\t{b}\ttag\n" for a, b in pairs), encoding="utf-8", newline="\n")
    return [folder / "x.tsv"]


def write_aligned(folder: Path, pairs: list) -> list[Path]:
    for side, name in enumerate(("x.en.gz", "x.de")):
        content = "".join(pair[side] + "\n" for pair in pairs).encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return [folder / "x.en.gz", folder / "x.de"]


def write_tmx(folder: Path, pairs: list) -> list[Path]:
    unit = '<tu><tuv xml:lang="{}"><seg>{}</seg></tuv><tuv xml:lang="{}"><seg>{}</seg></tuv></tu>\n'
    units = [
        unit.format("DE-AT", b, "en", a) if n % 2 else unit.format("EN-US", a, "de", b) for n, (a, b) in enumerate(pairs)
    ]
    head = '<?xml version="1.0" encoding="utf-8"?>\n<tmx version="1.4"><header/><body>\n'
    (folder / "x.tmx").write_text(head + "".join(units) + "</body></tmx>", encoding="utf-8")
    return [folder / "x.tmx"]


def write_jsonl(folder: Path, pairs: list) -> list[Path]:
    lines = [json.dumps({"src": a, "tgt": b}) for a, b in pairs]
    (folder / "x.jsonl").write_text("\n".join(lines))
    return [folder / "x.jsonl"]


WAYS = {"tsv": write_tsv, "aligned": write_aligned, "tmx": write_tmx, "jsonl": write_jsonl}


def inputs(way: str, folder: Path, pairs: list, pairing: Pairing = ENGLISH_TO_GERMAN) -> list[Input]:
    return paired(WAYS[way](folder, pairs), pairing, ("src", "tgt") if way == "jsonl" else None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk_bytes", [150, 1 << 20])
def test_each_way_gives_the_same_documents(tmp_path, recipe, tiny_tokenizer, monkeypatch, way, chunk_bytes):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk_bytes)
    (manifest,) = preprocess(recipe, {tmp_path / "o": inputs(way, tmp_path, PAIRS)})
    assert texts_of(tmp_path / "o", tiny_tokenizer) == [f"<en2de> {a} <de> {b}" for a, b in PAIRS]
    assert {entry["direction"] for entry in manifest["inputs"]} == {"en-de"}
    assert all(len(entry["xxh128"]) == 32 for entry in manifest["inputs"])


@pytest.mark.parametrize("way", WAYS)
def test_each_way_goes_on_after_an_interruption(tmp_path, recipe, monkeypatch, way):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 150)
    monkeypatch.setattr("megatron_lmt.preprocessing.shards.SHARD_BYTES", 300)
    given = inputs(way, tmp_path, PAIRS)
    preprocess(recipe, {tmp_path / "whole": given})
    interrupt_after(monkeypatch, 5, tmp_path / "x", recipe, {tmp_path / "x": given}, 1, 0)
    preprocess(recipe, {tmp_path / "x": given}, 1, 0, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "whole")


def test_the_style_and_the_direction_are_the_users(tmp_path, recipe, tiny_tokenizer):
    reverse = Pairing("en", "de", "split", reverse=True)
    preprocess(recipe, {tmp_path / "o": inputs("tsv", tmp_path, PAIRS[:2], reverse)})
    assert texts_of(tmp_path / "o", tiny_tokenizer) == [PAIRS[0][1], PAIRS[0][0], PAIRS[1][1], PAIRS[1][0]]


def test_bad_pairs_are_set_aside_with_their_reason(tmp_path, recipe):
    (tmp_path / "x.tsv").write_bytes(b"a\tb\nc\n \td\ne\t\xff\nf\tg\n")
    jobs = {tmp_path / "o": paired([tmp_path / "x.tsv"], ENGLISH_TO_GERMAN)}
    (manifest,) = preprocess(recipe, jobs, 1, 9)
    assert manifest["documents"] == 2
    assert [(r["line"], r["reason"]) for r in rejects_of(tmp_path / "o")] == [
        (2, "missing_key"),
        (3, "empty"),
        (4, "not_utf8"),
    ]


def test_bad_units_of_tmx(tmp_path, recipe, tiny_tokenizer):
    units = """<tmx><body>
      <tu><tuv xml:lang="en"><seg>The <bpt i="1">&lt;b&gt;</bpt>house<ept i="1"/> <hi>by</hi> it</seg></tuv>
          <tuv xml:lang="de"><seg>Das Haus</seg></tuv></tu>
      <tu><tuv xml:lang="en"><seg>a</seg></tuv><tuv xml:lang="fr"><seg>b</seg></tuv></tu>
      <tu><tuv xml:lang="en"><seg>a</seg></tuv><tuv xml:lang="de"><seg> </seg></tuv></tu></body></tmx>"""
    (tmp_path / "x.tmx").write_text(units)
    preprocess(recipe, {tmp_path / "o": paired([tmp_path / "x.tmx"], ENGLISH_TO_GERMAN)}, 1, 9)
    assert texts_of(tmp_path / "o", tiny_tokenizer) == ["<en2de> The house by it <de> Das Haus"]
    assert [(r["line"], r["reason"]) for r in rejects_of(tmp_path / "o")] == [(2, "missing_key"), (3, "empty")]
    assert "no de in it" in rejects_of(tmp_path / "o")[0]["message"]
    (tmp_path / "x.tmx").write_text(units[:-30])
    with pytest.raises(DataError, match=r"x\.tmx: not XML \(.*\), after unit 2"):
        preprocess(recipe, {tmp_path / "p": paired([tmp_path / "x.tmx"], ENGLISH_TO_GERMAN)}, 1, 9)


def test_aligned_files_of_different_length(tmp_path, recipe):
    files = write_aligned(tmp_path, PAIRS)
    files[1].write_text("Wasser\n" * 59)
    with pytest.raises(DataError, match=r"x\.de: ends before line 60, which .*x\.en\.gz has"):
        preprocess(recipe, {tmp_path / "o": paired(files, ENGLISH_TO_GERMAN)})


def test_wrong_pairs(tmp_path, recipe):
    (tsv,), aligned = write_tsv(tmp_path, PAIRS), write_aligned(tmp_path, PAIRS)
    with pytest.raises(ConfigError, match="give two files that are aligned"):
        paired(aligned[:1], ENGLISH_TO_GERMAN)
    with pytest.raises(UserError, match=r"x\.tsv: holds pairs; say of which languages, with --pair"):
        preprocess(recipe, {tmp_path / "o": [tsv]})
    with pytest.raises(DataError, match=r"1: no key 'translation\.en'; there are \['src', 'tgt'\]; say .* --json-keys"):
        preprocess(recipe, {tmp_path / "o": paired(write_jsonl(tmp_path, PAIRS), ENGLISH_TO_GERMAN)})


def test_another_direction_does_not_go_on(tmp_path, recipe):
    preprocess(recipe, {tmp_path / "o": inputs("tsv", tmp_path, PAIRS)})
    again = {tmp_path / "o": inputs("tsv", tmp_path, PAIRS, Pairing("en", "de", reverse=True))}
    with pytest.raises(UserError, match="finished already, with other inputs"):
        preprocess(recipe, again, resume=True)


LIST = """
seed = 5
[[monolingual]]
path = "mono.{language}.txt.gz"
languages = ["de"]
[[pairs]]
path = "{source}-{target}.tsv"
pairs = ["en-de"]
[[aligned]]
path = "side.{language}"
pairs = ["en-de", "en-fr"]
"""


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "list.toml").write_text(LIST)
    (folder / "mono.de.txt.gz").write_bytes(gzip.compress(b"Wasser\nBrot\n"))
    (folder / "en-de.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    for code in ("en", "de", "fr"):
        (folder / f"side.{code}").write_text("".join(f"{code} {n}\n" for n in range(40)))
    return folder


def test_a_list_gives_what_the_corpus_builder_gives(tmp_path, recipe, corpus):
    build_cpt_corpus(corpus / "list.toml", tmp_path / "text")
    preprocess(recipe, sources_in(tmp_path / "text", tmp_path / "two"))
    preprocess(recipe, read_sources(corpus / "list.toml", tmp_path / "one"))
    names = sorted(path.name.removesuffix(".bin") for path in (tmp_path / "two").glob("*.bin"))
    assert names == [f"{name}_text_document" for name in ("de-en", "en-de", "en-fr", "fr-en", "mono.de")]
    assert sorted(path.name for path in (tmp_path / "one").glob("*.bin")) == [f"{name}.bin" for name in names]
    for name in names:
        for path in (bin_path, idx_path):
            assert path(tmp_path / "one" / name).read_bytes() == path(tmp_path / "two" / name).read_bytes(), name


def test_the_command_takes_a_list(tmp_path, tiny_tokenizer, corpus):
    write_tmx(corpus, PAIRS[:10])
    (corpus / "web.jsonl").write_text('{"content": "Brot und Wasser"}\n')
    sources = '[[tmx]]\npath = "x.tmx"\npairs = ["de-en"]\n[[source]]\nname = "web"\ninput = ["*.jsonl"]\n'
    (corpus / "list.toml").write_text(LIST + sources + 'keys = ["content"]\nlanguage = "de"\n')
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tiny_tokenizer, "--append-eod"]
    output = tool("preprocess_data.py", "--sources", corpus / "list.toml", "--output-dir", tmp_path / "o", *tokenizer)
    assert "6 sources, 153 documents read = 153 written + 0 rejected" in output  # 2 + 60 + 40 + 40 + 10 + 1
    assert texts_of(tmp_path / "o/web", tiny_tokenizer) == ["Brot und Wasser"]
    table = [line.split() for line in output.splitlines()]
    (german,) = [row for row in table if row and row[0] == "de"]
    both = [read_manifest(tmp_path / f"o/{name}_text_document") for name in ("mono.de", "web")]
    tokens, words, characters = (sum(manifest[unit] for manifest in both) for unit in ("tokens", "words", "characters"))
    assert (words, characters) == (5, len("WasserBrotBrot und Wasser"))
    assert german[1:] == ["3", "0", str(tokens), f"{tokens / words:.2f}", f"{tokens / characters:.2f}"]
    assert [row[1] for row in table if row and row[0] in ("en-de", "de-en", "en-fr", "fr-en", "mono.de", "web")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "[clean]\nmax_length_ratio = 3.0\n", r"list\.toml: clean: tools/build_corpus\.py cleans"),
        (lambda text: text + '[[source]]\nname = "en-de"\ninput = ["en-de.tsv"]\n', "source en-de: there is another one"),
        (lambda text: text + '[[source]]\nname = "x"\ninput = ["*.parquet"]\n', r"\*\.parquet: no input in it"),
        (lambda text: text + '[[source]]\nname = "x"\ninput = []\nlanguage = "xx"\n', "source.0: .*'xx'"),
        (lambda text: text.replace("side.", "no."), "no such file"),
        (lambda text: "seed = 5", r"list\.toml: no source"),
    ],
)
def test_wrong_lists(tmp_path, corpus, change, message):
    (corpus / "list.toml").write_text(change(LIST))
    with pytest.raises(UserError, match=message):
        read_sources(corpus / "list.toml", tmp_path / "o")


def test_a_name_on_the_hub_is_streamed(tmp_path, recipe, tiny_tokenizer, monkeypatch):
    """A folder stands for the hub, which tests cannot reach: the loading code is the same."""
    monkeypatch.setattr("megatron_lmt.preprocessing.hub.ROWS_TOGETHER", 7)
    monkeypatch.setattr("megatron_lmt.preprocessing.shards.SHARD_BYTES", 100)
    (tmp_path / "data").mkdir()
    for part in range(2):
        rows = [{"id": n, "text": f"Wasser {part} {n}"} for n in range(30)]
        (tmp_path / f"data/train-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data/test.jsonl").write_text(json.dumps({"id": 1, "text": "Brot"}) + "\n")
    train, test = (as_input(Path(f"hf://{tmp_path}/data?split={split}")) for split in ("train", "test"))
    (manifest,) = preprocess(recipe, {tmp_path / "o": [train, test]})
    expected = [f"Wasser {part} {n}" for part in range(2) for n in range(30)] + ["Brot"]
    assert texts_of(tmp_path / "o", tiny_tokenizer) == expected
    assert [entry["path"] for entry in manifest["inputs"]] == [f"hf://{tmp_path}/data?split={s}" for s in ("train", "test")]
    interrupt_after(monkeypatch, 3, tmp_path / "x", recipe, {tmp_path / "x": [train, test]}, 1, 0)
    preprocess(recipe, {tmp_path / "x": [train, test]}, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "o")
    with pytest.raises(DataError, match=r"hf://.*data\?split=dev: cannot be read \(.*dev"):
        preprocess(recipe, {tmp_path / "y": [as_input(Path(f"hf://{tmp_path}/data?split=dev"))]})
    with pytest.raises(DataError, match="no column prompt; there are id, text"):
        preprocess(recipe, {tmp_path / "y": [as_input(train.paths[0], keys=("prompt",))]})
    with pytest.raises(DataError, match="unknown part; there are split, config, revision"):
        preprocess(recipe, {tmp_path / "y": [as_input(Path(f"hf://{tmp_path}/data?part=1"))]})


def test_the_list_of_sample60_is_a_list_of_sources(tmp_path, sample_data):
    found = read_sources(REPOSITORY / "examples/sample60/corpus.toml", tmp_path, str(sample_data))
    assert len(found) == 294
