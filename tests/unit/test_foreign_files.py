"""Files as other programs leave them: byte-order marks, "\r\n", UTF-16 TMX, JSON over many lines, odd names, odd company."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from megatron_lmt.corpus.cpt import build_cpt_corpus
from megatron_lmt.data.indexed import read_manifest
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preprocessing import preprocess as preprocess_module
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.inputs import paired, sources_in
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.recipe import Recipe
from tests.conftest import REPOSITORY
from tests.unit.test_resume_preprocess import interrupt_after, result
from tests.unit.test_source_list import texts_of

MARK = b"\xef\xbb\xbf"
PAIR = Pairing("en", "de", "newline")
TEXTS = [f"Wasser {n} \ufeff und\rBrot" for n in range(40)]  # neither a mark nor an end, within a line


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


def windows(lines: list[str]) -> bytes:
    return MARK + "".join(f"{line}\r\n" for line in lines).encode()


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.jsonl", "x.tsv", "x.en"])
@pytest.mark.parametrize("chunk_bytes", [7, 200])
def test_marks_and_line_ends_of_windows_are_no_text(tmp_path, recipe, tiny_tokenizer, monkeypatch, name, chunk_bytes):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("megatron_lmt.preprocessing.shards.SHARD_BYTES", 400)
    lines = {"x.jsonl": [f'{{"text": "{text}"}}'.replace("\r", "\\r") for text in TEXTS]}.get(name, TEXTS)
    lines = [f"{text}\t{text}" for text in TEXTS] if name == "x.tsv" else lines
    content = windows(lines)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    given, expected = [tmp_path / name], TEXTS
    if name in ("x.tsv", "x.en"):
        (tmp_path / "x.de").write_bytes(content)
        given, expected = [tmp_path / name] + [tmp_path / "x.de"] * (name == "x.en"), [f"{text}\n{text}" for text in TEXTS]
        given = paired(given, PAIR)
    preprocess(recipe, {tmp_path / "o": given})
    assert texts_of(tmp_path / "o", tiny_tokenizer) == expected
    interrupt_after(monkeypatch, 1, tmp_path / "i", recipe, {tmp_path / "i": given}, 1, 0)
    preprocess(recipe, {tmp_path / "i": given}, resume=True)
    assert result(tmp_path / "i") == result(tmp_path / "o")


def test_the_corpus_builder_reads_them_alike(tmp_path, recipe, tiny_tokenizer):
    (tmp_path / "de.txt").write_bytes(windows(TEXTS))
    (tmp_path / "c.toml").write_text('[[monolingual]]\npath = "{language}.txt"\nlanguages = ["de"]\n')
    build_cpt_corpus(tmp_path / "c.toml", tmp_path / "text")
    preprocess(recipe, sources_in(tmp_path / "text", tmp_path / "tokens"))
    assert texts_of(tmp_path / "tokens/mono.de", tiny_tokenizer) == TEXTS


def test_tmx_in_utf_16(tmp_path, recipe, tiny_tokenizer):
    units = "".join(
        f'<tu><tuv xml:lang="en-US"><seg>{n} a</seg></tuv><tuv xml:lang="DE"><seg>{n} ü ß</seg></tuv></tu>' for n in range(9)
    )
    head = '<?xml version="1.0" encoding="UTF-16"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>'
    (tmp_path / "x.tmx").write_text(f"{head}{units}</body></tmx>", encoding="utf-16")
    preprocess(recipe, {tmp_path / "o": paired([tmp_path / "x.tmx"], PAIR)})
    assert texts_of(tmp_path / "o", tiny_tokenizer) == [f"{n} a\n{n} ü ß" for n in range(9)]


@pytest.mark.parametrize("text", ['[\n{"text": "a"}\n]\n', '{\n  "text": "a"\n}\n'])
def test_json_over_many_lines_is_told(tmp_path, recipe, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json:1: not JSON .*; each line must be a record of its own; mend"):
        preprocess(recipe, {tmp_path / "o": [tmp_path / "x.json"]})


def test_what_is_given_twice_or_has_no_name_is_told(tmp_path, recipe):
    (tmp_path / "x.txt").write_text("a\n")
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt"))
    odd.write_text("a\n")
    with pytest.raises(UserError) as error:
        preprocess(recipe, {tmp_path / "o": [tmp_path / "x.txt", odd, tmp_path / "x.txt"]})
    first, second = error.value.problems
    assert first == f"{tmp_path / 'x.txt'}: given twice" and re.search(
        r"caf\\udce9\.txt': its name is not UTF-8; rename it", second
    )


def test_a_run_that_another_one_overtook_leaves_its_files(tmp_path, recipe, monkeypatch):
    """Both found nothing at first; the other one, with another recipe, has finished before this one begins to write."""
    (tmp_path / "x.txt").write_text("Wasser\n")
    progress = preprocess_module.progress

    def overtaken(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(preprocess_module, "progress", progress)
            other = Recipe(recipe.tokenizer_type, recipe.tokenizer_model, append_eod=False)
            preprocess(other, {tmp_path / "o": [tmp_path / "x.txt"]})
        before.update(result(tmp_path / "o"))
        return progress(*arguments)

    before: dict[str, bytes] = {}
    monkeypatch.setattr(preprocess_module, "progress", overtaken)
    with pytest.raises(DataError, match="o_text_document: another run has finished it meanwhile"):
        preprocess(recipe, {tmp_path / "o": [tmp_path / "x.txt"]})
    assert before and result(tmp_path / "o") == before


def test_two_commands_at_once(tmp_path, tiny_tokenizer, sample_data):
    """One makes the files; the other one fails, and never takes the first one's for its own, which have no end tokens."""
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer)]
    files = ["--input", str(sample_data / "mono/mono.de.jsonl.gz"), "--output-prefix", str(tmp_path / "o")]
    command = [sys.executable, str(REPOSITORY / "tools/preprocess_data.py"), *tokenizer, *files]
    runs = [subprocess.Popen([*command, *option], stderr=subprocess.PIPE, text=True) for option in ([], ["--append-eod"])]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 2], errors
    assert "Traceback" not in errors[codes.index(2)] and "error: " in errors[codes.index(2)]
    manifest = read_manifest(tmp_path / "o_text_document")
    assert manifest["append_eod"] == (codes[1] == 0)
    assert {file.name for file in tmp_path.iterdir()} == {f"o_text_document.{e}" for e in ("bin", "idx", "manifest.json")}


def test_files_of_other_kinds_are_named(tmp_path, tiny_tokenizer):
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "text" / name).write_text("Wasser und Brot\n" * 50)
    (tmp_path / "text/more").mkdir()
    for name in ("c.csv", "more/d.jsonl.bz2"):
        (tmp_path / "text" / name).write_text("Wasser")
    Dataset.from_dict({"text": ["Wasser"]}).save_to_disk(tmp_path / "saved")
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer), "--append-eod"]
    command = [sys.executable, str(REPOSITORY / "tools/preprocess_data.py"), *tokenizer]
    for given in (["--input-dir", "text", "--output-dir", "o"], ["--input", "text", "--output-prefix", "p"]):
        done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "text: of a kind that is not known, and not read: c.csv, more/d.jsonl.bz2" in done.stderr
    done = subprocess.run(
        [*command, "--input", "saved", "--output-prefix", "s"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "not read" not in done.stderr
    assert read_manifest(tmp_path / "p_text_document")["documents"] == 100


def test_the_pace_is_that_of_all_sources(tmp_path, recipe, monkeypatch):
    shown, clock = [], iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("megatron_lmt.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("tqdm.tqdm.set_postfix_str", lambda self, text, refresh: shown.append(text))
    for name, lines in (("a", 10), ("b", 30)):
        (tmp_path / f"{name}.txt").write_text("Wasser\n" * lines + "\n")
    manifests = preprocess(recipe, {tmp_path / name: [tmp_path / f"{name}.txt"] for name in "ab"}, 1, 1)
    tokens = [sum(manifest["tokens"] for manifest in manifests[:count]) for count in (1, 2)]
    assert shown == [
        f"1 rejected, 5.00 documents/s, {tokens[0] / 2:.1f} tokens/s, 35.5B/s",
        f"2 rejected, 10.0 documents/s, {tokens[1] / 4:.1f} tokens/s, 70.5B/s",
    ]
