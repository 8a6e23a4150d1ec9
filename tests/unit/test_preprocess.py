"""Preprocessing: all text arrives as tokens in the order of the input, and bad input leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import sentencepiece
import xxhash

from megatron_lmt.data.indexed import IndexedReader, read_manifest
from megatron_lmt.data.tokenizer import load_tokenizer
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.engines import STANDARD
from megatron_lmt.preprocessing.inputs import sources_in
from megatron_lmt.preprocessing.preprocess import _all, preprocess
from megatron_lmt.preprocessing.shards import Shards
from megatron_lmt.preprocessing.tokenising import Recipe

TOOL = Path(__file__).parents[2] / "tools/preprocess_data.py"
TEXTS = ["Wasser und Brot", "水和面包 <|im_start|>", "\u202f\u180e\u200d ᠮᠣᠩᠭᠣᠯ", "a\u2028b\u0085c\r d", " \n\n x"]


def write_jsonl(path: Path, records: list) -> Path:
    with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
        for record in records:
            line = record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False).encode()
            file.write(line + b"\n")
    return path


def as_records(texts: list[str]) -> list[dict]:
    return [{"text": text} for text in texts]


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return load_tokenizer("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.fixture
def command(tiny_tokenizer):
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer)]
    return [sys.executable, str(TOOL), *tokenizer, "--append-eod"]


def documents(prefix: Path) -> list[list[int]]:
    reader = IndexedReader(prefix)
    return [reader.document(i).tolist() for i in range(reader.num_documents)]


def test_each_line_becomes_a_document_that_ends_with_eod(tmp_path, recipe, tokenizer):
    first = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS[:2]))
    second = write_jsonl(tmp_path / "2.jsonl.gz", as_records(TEXTS[2:]))
    preprocess(recipe, {tmp_path / "new" / "x": [second, first]})
    found = documents(tmp_path / "new" / "x_text_document")
    assert [tokenizer.decode(document[:-1]) for document in found] == TEXTS[2:] + TEXTS[:2]
    assert found == [[*tokenizer.encode(text), tokenizer.eod] for text in TEXTS[2:] + TEXTS[:2]]
    assert tokenizer.token_to_id("<|im_start|>") not in sum(found, [])


def test_without_eod_documents_are_the_text_alone(tmp_path, tiny_tokenizer, tokenizer):
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer, append_eod=False)
    preprocess(recipe, {tmp_path / "x": [source]})
    assert documents(tmp_path / "x_text_document") == tokenizer.encode_batch(TEXTS)


def test_only_loss_keys_are_to_be_predicted(tmp_path, tiny_tokenizer, tokenizer):
    prompt, target = "<|im_start|>user\nWater<|im_end|>\n", "Wasser<|im_end|>"
    source = write_jsonl(tmp_path / "1.jsonl", [{"target": target, "prompt": prompt}] * 3)
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer, ("prompt", "target"), ("target",))
    (manifest,) = preprocess(recipe, {tmp_path / "x": [source]})
    reader = IndexedReader(tmp_path / "x_text_document")
    context, learnt = tokenizer.encode_batch([prompt, target], allow_special=True)
    assert tokenizer.token_to_id("<|im_start|>") in context
    for i in range(3):
        assert reader.document(i).tolist() == [*context, *learnt, tokenizer.eod]
        assert reader.document_loss_mask(i).tolist() == [False] * len(context) + [True] * (len(learnt) + 1)
    assert (manifest["documents"], manifest["sequences"]) == (3, 6)
    assert manifest["loss_tokens"] == 3 * (len(learnt) + 1)


def test_real_text_of_60_languages_arrives(tmp_path, recipe, tokenizer, sample_data):
    texts = {}
    (tmp_path / "text").mkdir()
    for file in sorted((sample_data / "mono").glob("*.jsonl.gz")):
        with gzip.open(file, "rb") as lines:
            some = lines.readlines(20_000)
        (tmp_path / "text" / file.name.removesuffix(".gz")).write_bytes(b"".join(some))
        texts[file.name.removesuffix(".jsonl.gz")] = [json.loads(line)["text"] for line in some]
    preprocess(recipe, sources_in(tmp_path / "text", tmp_path / "tokens"))
    assert len(texts) == 60
    for name, expected in texts.items():
        found = documents(tmp_path / "tokens" / f"{name}_text_document")
        assert [tokenizer.decode(document[:-1]) for document in found] == expected, name


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 400)  # read by this process: many chunks from little text
    sources = [
        write_jsonl(tmp_path / f"{i}.jsonl", as_records([f"{text} {i} {n}" * (n % 7 + 1) for n in range(40)]))
        for i, text in enumerate(TEXTS)
    ]
    manifests = [preprocess(recipe, {tmp_path / f"x{workers}": sources}, workers)[0] for workers in (1, 3)]
    assert manifests[0] == manifests[1] and manifests[0]["documents"] == 200
    for ending in ("bin", "idx"):
        contents = [(tmp_path / f"x{workers}_text_document.{ending}").read_bytes() for workers in (1, 3)]
        assert contents[0] == contents[1]


def test_manifest_describes_the_files(tmp_path, recipe, tokenizer):
    source = write_jsonl(tmp_path / "1.jsonl.gz", as_records(TEXTS))
    preprocess(recipe, {tmp_path / "x": [source]})
    prefix = tmp_path / "x_text_document"
    manifest, reader = read_manifest(prefix), IndexedReader(prefix)
    files = [Path(f"{prefix}.{ending}").read_bytes() for ending in ("bin", "idx")]
    assert [manifest["bin_bytes"], manifest["idx_bytes"]] == [len(content) for content in files]
    assert [manifest["xxh128"], manifest["idx_xxh128"]] == [xxhash.xxh3_128_hexdigest(content) for content in files]
    assert (manifest["documents"], manifest["tokens"]) == (reader.num_documents, reader.num_tokens)
    assert manifest["dtype"] == "uint16" and manifest["sequences"] == 5 and "loss_tokens" not in manifest
    assert manifest["tokenizer"] == {
        "type": "HuggingFaceTokenizer",
        "identity": tokenizer.identity(),
        "vocab_size": tokenizer.vocab_size,
        "eod": tokenizer.eod,
    }
    xxh128 = xxhash.xxh3_128_hexdigest(source.read_bytes())
    assert manifest["inputs"] == [{"path": str(source), "bytes": source.stat().st_size, "xxh128": xxh128}]
    assert (manifest["append_eod"], manifest["json_keys"], manifest["loss_keys"]) == (True, ["text"], [])
    assert set(manifest["versions"]) == {"megatron_lmt", "tokenizers", "sentencepiece", "python"}


@pytest.mark.parametrize("append_eod", [True, False])
def test_manifest_counts_first_and_last_tokens(tmp_path, tiny_tokenizer, tokenizer, append_eod):
    texts = [f"{letter}x{letter}" * (30 - n) for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz") for _ in range(n + 1)]
    source = write_jsonl(tmp_path / "1.jsonl", as_records(texts))
    recipe = Recipe("HuggingFaceTokenizer", tiny_tokenizer, append_eod=append_eod)
    preprocess(recipe, {tmp_path / "x": [source]})
    manifest = read_manifest(tmp_path / "x_text_document")
    ids = tokenizer.encode_batch(texts)
    first, last = (Counter(str(document[place]) for document in ids) for place in (0, -1))
    last = {str(tokenizer.eod): len(texts)} if append_eod else last
    for name, expected in (("first_tokens", first), ("last_tokens", last)):
        found = list(manifest[name].items())
        assert found == sorted(Counter(expected).items(), key=lambda item: (-item[1], int(item[0])))[:20]


@pytest.mark.parametrize(
    ("line", "reason", "workers"),
    [
        (b'{"text": "a"', "not JSON", 1),
        (b"", "not JSON", 1),
        (b'["a"]', "not a JSON object", 1),
        (b'{"txt": "a"}', "no key 'text'", 1),
        (b'{"text": 3}', "is 3", 1),
        (b'{"text": " "}', "' '", 1),
        (b'{"text": "\xff"}', "not UTF-8", 1),
        (b'{"text": "a \\ud800 b"}', "lone surrogate", 1),
        (b'{"text": "a \\ud800 b"}', "lone surrogate", 2),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left(tmp_path, recipe, line, reason, workers):
    good = write_jsonl(tmp_path / "good.jsonl", as_records(TEXTS))
    bad = write_jsonl(tmp_path / "bad.jsonl", [*as_records(TEXTS), line, *as_records(TEXTS)])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=reason) as error:
        preprocess(recipe, {tmp_path / "out" / "x": [good, bad]}, workers)
    assert str(error.value).startswith(f"{bad}:6: ")
    assert not list((tmp_path / "out").iterdir())


def test_line_numbers_go_on_from_chunk_to_chunk(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 50)
    bad = write_jsonl(tmp_path / "bad.jsonl", [*as_records(TEXTS * 4), b"[]"])
    with pytest.raises(DataError, match=r"bad\.jsonl:21: "):
        preprocess(recipe, {tmp_path / "x": [bad]})


def test_a_document_without_tokens_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the house of the river"]),
        model_prefix=str(tmp_path / "m"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    source = write_jsonl(tmp_path / "1.jsonl", as_records(["the house", "\u200b"]))  # its normaliser drops U+200B
    recipe = Recipe("SentencePieceTokenizer", tmp_path / "m.model", append_eod=False)
    with pytest.raises(DataError, match=r"1\.jsonl:2: the tokenizer finds no token"):
        preprocess(recipe, {tmp_path / "x": [source]})


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1000],
        lambda content: content[:5000] + bytes(1000) + content[6000:],
        lambda content: b"not gzip" + content,
    ],
    ids=["truncated", "overwritten", "not gzip"],
)
def test_a_damaged_gzip_file_is_named(tmp_path, recipe, damage):
    source = write_jsonl(tmp_path / "1.jsonl.gz", as_records([f"{n} {n * 7919 % 10007}" for n in range(9999)]))
    source.write_bytes(damage(source.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"1\.jsonl\.gz: damaged gzip file"):
        preprocess(recipe, {tmp_path / "out" / "x": [source]})
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["1.jsonl", "1.jsonl.gz"])
def test_an_empty_corpus_is_an_error(tmp_path, recipe, name):
    source = write_jsonl(tmp_path / name, [])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=rf"{name}: no document in it"):
        preprocess(recipe, {tmp_path / "out" / "x": [source]})
    assert not list((tmp_path / "out").iterdir())


def test_all_wrong_arguments_are_named_at_once(tmp_path):
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    (tmp_path / "x_text_document.bin").write_text("precious")
    recipe = Recipe("HuggingFaceTokenizer", tmp_path / "nowhere", ("text",), ("target",))
    jobs = {tmp_path / "x": [source], tmp_path / "y": [tmp_path / "2.jsonl", tmp_path / "3.jsonl"]}
    with pytest.raises(UserError) as error:
        preprocess(recipe, jobs, workers=0)
    expected = ["not among --json-keys", "--workers 0", "2.jsonl", "3.jsonl", "nowhere", "x_text_document.bin exists"]
    assert len(error.value.problems) == len(expected)
    for problem, part in zip(error.value.problems, expected, strict=True):
        assert part in problem
    assert (tmp_path / "x_text_document.bin").read_text() == "precious"


def test_several_keys_need_loss_keys(tmp_path, tiny_tokenizer):
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    with pytest.raises(UserError, match="name those to learn in --loss-keys"):
        preprocess(Recipe("HuggingFaceTokenizer", tiny_tokenizer, ("a", "b")), {tmp_path / "x": [source]})


def test_two_files_for_one_prefix_are_refused(tmp_path):
    write_jsonl(tmp_path / "de.jsonl", as_records(TEXTS))
    write_jsonl(tmp_path / "de.jsonl.gz", as_records(TEXTS))
    with pytest.raises(UserError, match=r"de\.jsonl and .*de\.jsonl\.gz: both would be"):
        sources_in(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        sources_in(tmp_path / "nowhere", tmp_path / "out")


def test_the_command_prepares_a_folder_and_says_what_it_did(tmp_path, command):
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "mono.de.jsonl", as_records(TEXTS))
    write_jsonl(tmp_path / "text" / "mono.fr.jsonl.gz", as_records(TEXTS[:2]))
    folders = ["--input-dir", "text", "--output-dir", "tokens", "--workers", "2"]
    result = subprocess.run([*command, *folders], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("2 sources, 7 documents read = 7 written + 0 rejected, ") and last.endswith(" → tokens")
    assert re.search(r"100 % of .* left, 0 rejected, [\d.]+k? documents/s, [\d.]+k? tokens/s, [\d.]+[kM]?B/s", result.stderr)
    assert "\r" not in result.stderr and "100 % of" in result.stderr
    names = {f"mono.{code}_text_document.{end}" for code in ("de", "fr") for end in ("bin", "idx", "manifest.json")}
    assert set(os.listdir(tmp_path / "tokens")) == names


def test_the_command_fails_with_code_2_and_no_traceback(tmp_path, command):
    for arguments, reason in (
        (["--input", "a", "--output-prefix", "x"], "error: a: no such file"),
        (["--input", "a", "--output-dir", "x"], "error: give --input with --output-prefix"),
    ):
        result = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.startswith(reason) and result.stderr.count("\n") == 1


@pytest.fixture
def at_work(tmp_path, command):
    """A command in the middle of its work, and its two tokenising processes (those that examined have ended)."""
    source = write_jsonl(tmp_path / "1.jsonl", as_records(["Wasser und Brot " * 1000] * 3000))
    (tmp_path / "out").mkdir()
    arguments = ["--input", str(source), "--output-prefix", str(tmp_path / "out" / "x"), "--workers", "2"]
    with open(tmp_path / "stderr", "w") as stderr:  # a pipe would stay open as long as any worker lives
        process = subprocess.Popen([*command, *arguments], stderr=stderr)
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size for file in (tmp_path / "out").rglob("*.bin")):
        assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "stderr").read_text()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    workers = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    assert len(workers) == 2
    yield process, workers
    for leftover in (process, *(worker for worker in workers if worker.is_running())):
        leftover.kill()
    process.wait()


def test_a_dead_worker_is_an_error_and_nothing_is_left(tmp_path, at_work):
    process, workers = at_work
    os.kill(workers[0].pid, signal.SIGKILL)
    assert process.wait(timeout=120) == 2
    errors = (tmp_path / "stderr").read_text()
    assert "error: a tokenising process died" in errors and "Traceback" not in errors
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_command_leaves_nothing(tmp_path, at_work):
    process, workers = at_work
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 128 + signal.SIGINT
    errors = (tmp_path / "stderr").read_text()
    assert errors.endswith("interrupted\n") and "Traceback" not in errors
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive and not list((tmp_path / "out").iterdir())


def test_no_source_is_begun_after_an_interrupt():
    begun, interrupted = [], threading.Event()

    def make(prefix, inputs):
        begun.append(prefix)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(60)

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyboardInterrupt):
            _all(threads, make, {Path(name): [] for name in "abcd"})
        interrupted.set()
    assert begun == [Path("a")]


def test_workers_end_when_the_command_is_killed(tmp_path, at_work):
    process, workers = at_work
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert not (tmp_path / "out" / "x_text_document.bin").exists()


@pytest.mark.parametrize(("number", "which"), [(1, "process that opens the tokenizer"), (2, "tokenising process")])
def test_a_worker_that_dies_as_it_starts_is_an_error(tmp_path, recipe, monkeypatch, number, which):
    """More moments are in test_pool.py."""
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS * 40))
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 400)
    start, started = BaseProcess.start, []

    def start_and_kill(self) -> None:
        start(self)
        started.append(self)
        if len(started) >= number:
            self.kill()

    monkeypatch.setattr(BaseProcess, "start", start_and_kill)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=f"{which} died"):
        preprocess(recipe, {tmp_path / "out/x": [source]}, workers=2, engine=STANDARD)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_an_error_and_nothing_is_left(tmp_path, command, workers):
    """A limit on the size of files stands for the disk."""
    source = write_jsonl(tmp_path / "1.jsonl", as_records(["Wasser und Brot " * 1000] * 100))
    (tmp_path / "out").mkdir()
    arguments = ["--input", str(source), "--output-prefix", str(tmp_path / "out/x"), "--workers", workers]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    result = subprocess.run([*command, *arguments], preexec_fn=limit, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.search(r"error: .*out/x_text_document: stopped: .*File too large.*--resume", result.stderr), result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_an_output_folder_that_cannot_be_made_is_an_error(tmp_path, recipe):
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    with pytest.raises(UserError, match=r"1\.jsonl/x_text_document: .*1\.jsonl is a file; give another prefix"):
        preprocess(recipe, {source / "x": [source]})


def test_an_input_that_vanishes_is_an_error(tmp_path, recipe, monkeypatch):
    sources = [write_jsonl(tmp_path / f"{n}.jsonl", as_records(TEXTS)) for n in range(2)]
    add = Shards.add

    def add_and_remove(self, chunk):
        add(self, chunk)
        sources[1].unlink(missing_ok=True)

    monkeypatch.setattr(Shards, "add", add_and_remove)
    with pytest.raises(DataError, match=r"out/x_text_document: stopped: .*1\.jsonl"):
        preprocess(recipe, {tmp_path / "out/x": sources})
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("engine", ["standard", "auto"])
def test_the_command_imports_nothing_that_is_slow(engine, tmp_path, command):
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    files = ["--input", str(source), "--output-prefix", str(tmp_path / "x")]
    start = [sys.executable, "-X", "importtime", *command[1:], "--tokenizer-engine", engine, *files]
    result = subprocess.run(start, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert "megatron_lmt.preprocessing.preprocess" in imported
    slow = {"torch", "transformers", "datasets", "pyarrow", "pandas", "pydantic", "megatron.core", "awkward"}
    assert not imported & slow


def test_a_tokenizer_that_was_exchanged_is_opened_anew(tmp_path, tiny_tokenizer):
    """In one process: what was opened for an earlier call is not used again."""
    source = write_jsonl(tmp_path / "1.jsonl", as_records(TEXTS))
    folder = Path(shutil.copytree(tiny_tokenizer, tmp_path / "tokenizer"))
    for name in ("before", "after"):
        preprocess(Recipe("HuggingFaceTokenizer", folder), {tmp_path / name: [source]})
        definition = json.loads((folder / "tokenizer.json").read_text())
        definition["model"]["merges"] = []
        (folder / "tokenizer.json").write_text(json.dumps(definition))
    before, after = (read_manifest(tmp_path / f"{name}_text_document")["tokens"] for name in ("before", "after"))
    assert before < after
