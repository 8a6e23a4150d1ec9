"""A killed run goes on where it stopped, and its result is byte for byte that of an undisturbed one."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from megatron_lmt.data.indexed import CONTEXT, LOSS, bin_path, idx_path, manifest_path, rejected_path
from megatron_lmt.data.indexed_writer import IndexedWriter, TokensFile
from megatron_lmt.errors import DataError, UserError
from megatron_lmt.preprocessing import one_source, text_files
from megatron_lmt.preprocessing import shards as shards_module
from megatron_lmt.preprocessing.inputs import sources_in
from megatron_lmt.preprocessing.merge import merge_indexes
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.shards import Shards, shards_folder
from megatron_lmt.preprocessing.tokenising import Recipe

SMALL = """
import sys
from pathlib import Path
from megatron_lmt.preprocessing import shards
from megatron_lmt.preprocessing import text_files
from megatron_lmt.preprocessing.preprocess import preprocess
from megatron_lmt.preprocessing.tokenising import Recipe
shards.SHARD_BYTES, text_files.CHUNK_BYTES = 40_000, 5_000
tokenizer, workers, prefix, *inputs = sys.argv[1:]
jobs = {Path(prefix): [Path(file) for file in inputs]}
preprocess(Recipe("HuggingFaceTokenizer", Path(tokenizer)), jobs, int(workers), 10**6, resume=True)
"""
"""As the command with --resume and --on-bad-line quarantine, in shards of 40 kB."""


@pytest.fixture
def recipe(tiny_tokenizer):
    return Recipe("HuggingFaceTokenizer", tiny_tokenizer)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 2000)
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 300)


def write_text(folder: Path, documents: int) -> list[Path]:
    """Two files, one of them gzipped, with a bad line in every hundred."""
    lines = [json.dumps({"text": f"Wasser und Brot {n} " * (n % 9 + 1)}) for n in range(documents)]
    lines[50::100] = ["{"] * len(lines[50::100])
    files = [folder / "one.jsonl", folder / "two.jsonl.gz"]
    files[0].write_text("\n".join(lines[: documents // 2]))  # its last line has no end
    with gzip.open(files[1], "wt") as file:
        file.write("\n".join(lines[documents // 2 :]) + "\n")
    return files


def result(prefix: Path) -> dict[str, bytes]:
    """Everything a run leaves of one source."""
    files = sorted(prefix.parent.glob(f"{prefix.name}_text_document*"))
    assert not any(file.is_dir() for file in files), files
    return {file.name.removeprefix(prefix.name): file.read_bytes() for file in files}


class Killed(BaseException):
    pass


def interrupt_after(monkeypatch, shards: int, prefix: Path, *arguments) -> None:
    """Run `preprocess` and stop it when this many shards are finished and the next has begun."""
    add = Shards.add

    def add_or_stop(self, chunk):
        add(self, chunk)
        if len(self._finished) == shards and self._writer:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Shards, "add", add_or_stop)
        preprocess(*arguments)
    assert len(list(shards_folder(f"{prefix}_text_document").glob("*.json"))) == shards + 2  # and the job


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_command_goes_on(tmp_path, tiny_tokenizer, workers):
    inputs = write_text(tmp_path, 12_000)
    (tmp_path / "whole").mkdir()

    def start(prefix: Path, workers: int) -> subprocess.Popen:
        command = [sys.executable, "-c", SMALL, str(tiny_tokenizer), str(workers), str(prefix), *map(str, inputs)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole/x", 1).wait(timeout=60) == 0
    finished = []
    for _ in range(3):
        process = start(tmp_path / "x", workers)
        folder = shards_folder(tmp_path / "x_text_document")
        while process.poll() is None and len(list(folder.glob("0*.json"))) < len(finished) + 3:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = list(folder.glob("0*.json"))
        assert finished, "it was finished before it could be killed: more text is needed"
    assert not bin_path(tmp_path / "x_text_document").exists()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("0*.idx")}
    assert start(tmp_path / "x", 4 - workers).wait(timeout=60) == 0
    assert len(kept) >= 9 and not folder.exists()
    assert result(tmp_path / "x") == result(tmp_path / "whole/x")
    manifest = json.loads(result(tmp_path / "x")[manifest_path("_text_document").name])
    assert manifest["documents_read"] == 12_000 and manifest["rejected"] == {"broken_json": 120}


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_it_goes_on_after_the_finished_shards_without_reading_them_again(tmp_path, recipe, small, monkeypatch, shards):
    inputs = write_text(tmp_path, 300)
    (tmp_path / "whole").mkdir()
    preprocess(recipe, {tmp_path / "whole/x": inputs}, 1, 100)
    jobs = {tmp_path / "x": inputs}
    interrupt_after(monkeypatch, shards, tmp_path / "x", recipe, jobs, 1, 100)
    with pytest.raises(UserError, match=r"x_text_document\.shards: an interrupted run left it.*--resume"):
        preprocess(recipe, jobs, 1, 100)
    preprocess(recipe, jobs, 1, 100, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "whole/x")


def test_shards_do_not_show_in_the_result(tmp_path, recipe, monkeypatch):
    inputs = write_text(tmp_path, 300)
    for name, size in (("large", 1 << 20), ("small", 2000)):
        monkeypatch.setattr(shards_module, "SHARD_BYTES", size)
        monkeypatch.setattr(text_files, "CHUNK_BYTES", size // 5)
        preprocess(recipe, {tmp_path / name: inputs}, 1, 100)
    large, small = result(tmp_path / "large"), result(tmp_path / "small")
    rejected = rejected_path("_text_document").name
    assert gzip.decompress(large.pop(rejected)) == gzip.decompress(small.pop(rejected))
    assert large == small


def test_a_bad_line_can_be_set_aside_later(tmp_path, recipe, small):
    inputs = write_text(tmp_path, 300)
    (tmp_path / "whole").mkdir()
    preprocess(recipe, {tmp_path / "whole/x": inputs}, 1, 100)
    with pytest.raises(DataError, match=r"one\.jsonl:51: "):
        preprocess(recipe, {tmp_path / "x": inputs})
    assert list(shards_folder(tmp_path / "x_text_document").glob("0*.idx"))
    preprocess(recipe, {tmp_path / "x": inputs}, 1, 100, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "whole/x")


def test_the_limit_of_bad_lines_counts_those_before_the_interruption(tmp_path, recipe, small, monkeypatch):
    inputs = write_text(tmp_path, 300)
    jobs = {tmp_path / "x": inputs}
    interrupt_after(monkeypatch, 7, tmp_path / "x", recipe, jobs, 1, 2)
    with pytest.raises(DataError, match=r"two\.jsonl\.gz:101: .*more than --max-bad-lines 2"):
        preprocess(recipe, jobs, 1, 2, resume=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"append_eod": False}, "tokenizer and append_eod"),
        ({"max_tokens": 7}, "max_tokens"),
        ({"json_keys": ("prompt",)}, "json_keys"),
    ],
)
def test_another_recipe_does_not_go_on(tmp_path, recipe, small, monkeypatch, change, what):
    inputs = write_text(tmp_path, 300)
    jobs = {tmp_path / "x": inputs}
    interrupt_after(monkeypatch, 2, tmp_path / "x", recipe, jobs, 1, 100)
    with pytest.raises(UserError, match=rf"x_text_document\.shards: .* other {what}; "):
        preprocess(replace(recipe, **change), jobs, 1, 100, resume=True)
    inputs[0].write_bytes(inputs[0].read_bytes())
    os.utime(inputs[0], ns=(1, 1))
    with pytest.raises(UserError, match=r"x_text_document\.shards: .* other inputs; "):
        preprocess(recipe, jobs, 1, 100, resume=True)
    preprocess(recipe, {tmp_path / "y": inputs}, 1, 100, resume=True)
    with pytest.raises(UserError, match=rf"y_text_document: finished already, with other {what}; "):
        preprocess(replace(recipe, **change), {tmp_path / "y": inputs}, 1, 100, resume=True)


def test_finished_sources_are_kept_and_the_others_made(tmp_path, recipe, monkeypatch):
    (tmp_path / "text").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"text/{name}.jsonl").write_text(json.dumps({"text": name * 20}) + "\n")
    jobs = sources_in(tmp_path / "text", tmp_path / "tokens")
    done = dict(list(jobs.items())[:2])
    first = preprocess(recipe, done)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "tokens").iterdir()}
    assert len(before) == 6
    manifests = preprocess(recipe, jobs, resume=True)
    assert manifests[:2] == first and len(manifests) == 3
    assert {file: file.stat().st_mtime_ns for file in before} == before
    (tmp_path / "text/a.jsonl").write_text(json.dumps({"text": "x" * 20}) + "\n")  # as long as before
    with pytest.raises(DataError, match=r"a_text_document: made from another content of .*a\.jsonl"):
        preprocess(recipe, jobs, resume=True)
    (tmp_path / "text/a.jsonl").write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(UserError, match="a_text_document: finished already, with other inputs"):
        preprocess(recipe, jobs, resume=True)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_run_that_was_killed_while_it_finished_is_finished(tmp_path, recipe, small, monkeypatch):
    inputs = write_text(tmp_path, 300)
    (tmp_path / "whole").mkdir()
    preprocess(recipe, {tmp_path / "whole/x": inputs}, 1, 100)

    def stop(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(one_source, "write_manifest", stop)  # the token files have their names, but no manifest
        preprocess(recipe, {tmp_path / "x": inputs}, 1, 100)
    assert bin_path(tmp_path / "x_text_document").exists()
    preprocess(recipe, {tmp_path / "x": inputs}, 1, 100, resume=True)
    assert result(tmp_path / "x") == result(tmp_path / "whole/x")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards_module.shutil, "rmtree", stop)  # all is there, and the shards still are
        preprocess(recipe, {tmp_path / "y": inputs}, 1, 100)
    assert shards_folder(tmp_path / "y_text_document").exists()
    preprocess(recipe, {tmp_path / "y": inputs}, 1, 100, resume=True)
    assert result(tmp_path / "y") == result(tmp_path / "whole/x")


def test_a_disk_that_is_full_at_the_last_file_can_be_gone_on_with(tmp_path, recipe, monkeypatch):
    inputs = write_text(tmp_path, 300)

    def fail(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left on device; .*--resume"):
        patch.setattr(one_source, "write_manifest", fail)
        preprocess(recipe, {tmp_path / "x": inputs}, 1, 100)
    preprocess(recipe, {tmp_path / "x": inputs}, 1, 100, resume=True)
    preprocess(recipe, {tmp_path / "y": inputs}, 1, 100)
    assert result(tmp_path / "x") == result(tmp_path / "y")


def test_two_runs_on_one_prefix(tmp_path, recipe):
    inputs = write_text(tmp_path, 300)
    folder = shards_folder(tmp_path / "x_text_document")
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"x_text_document\.shards: another run is at work here"):
            preprocess(recipe, {tmp_path / "x": inputs}, 1, 100, resume=True)
        assert [file.name for file in folder.iterdir()] == ["lock"]
    preprocess(recipe, {tmp_path / "x": inputs}, 1, 100, resume=True)
    assert "_text_document.bin" in result(tmp_path / "x")


def test_an_input_that_changes_meanwhile_is_an_error(tmp_path, recipe, monkeypatch):
    inputs = write_text(tmp_path, 300)
    add = Shards.add

    def add_and_change(self, chunk):
        add(self, chunk)
        os.utime(inputs[0], ns=(1, 1))

    monkeypatch.setattr(Shards, "add", add_and_change)
    with pytest.raises(DataError, match="changed while it was read"):
        preprocess(recipe, {tmp_path / "out/x": inputs}, 1, 100)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("modes", [None, [CONTEXT, LOSS]])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_parts_become_the_files_of_one_writer(tmp_path, modes, dtype):
    random = np.random.default_rng(3)
    batches = [random.integers(0, 4, (n, 2 if modes else 1)) + 1 for n in (5, 0, 1, 300)]
    tokens = [random.integers(0, 60000, lengths.sum()) for lengths in batches]
    parts, file = [], TokensFile(tmp_path / "merged.bin")
    with IndexedWriter(tmp_path / "whole", dtype, bool(modes)) as whole:
        for number, (lengths, content) in enumerate(zip(batches, tokens, strict=True)):
            whole.add_documents(content, lengths, modes)
            with IndexedWriter(tmp_path / f"{number}", dtype, bool(modes), file) as part:
                part.add_documents(content, lengths, modes)
                parts.append((tmp_path / f"{number}", part.close()))
        counts = whole.close()
    assert merge_indexes(parts, tmp_path / "merged") | {"xxh128": file.xxh128()} == counts
    for path in (bin_path, idx_path):
        assert path(tmp_path / "merged").read_bytes() == path(tmp_path / "whole").read_bytes()
    idx_path(parts[0][0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.idx: empty"):
        merge_indexes(parts, tmp_path / "again")


def test_tokens_that_are_missing_are_not_gone_on_with(tmp_path, recipe, small, monkeypatch):
    """As where a power cut took what a disk said it had."""
    inputs = write_text(tmp_path, 300)
    jobs = {tmp_path / "x": inputs}
    interrupt_after(monkeypatch, 3, tmp_path / "x", recipe, jobs, 1, 100)
    file = shards_folder(tmp_path / "x_text_document") / "all.bin"
    for found, lose in ((100, partial(os.truncate, file, 100)), (0, file.unlink)):
        lose()
        message = rf"shards/all\.bin: {found} bytes, but .* were written; delete .*shards and begin anew"
        with pytest.raises(DataError, match=message):
            preprocess(recipe, jobs, 1, 100, resume=True)


def test_nothing_is_left_where_all_is_rejected(tmp_path, recipe, small):
    """So that the next run may read another key."""
    inputs = write_text(tmp_path, 300)
    with pytest.raises(DataError, match="no document in it that can be used .*; nothing was written"):
        preprocess(replace(recipe, json_keys=("content",)), {tmp_path / "out/x": inputs}, 1, 300)
    assert not list((tmp_path / "out").iterdir())
