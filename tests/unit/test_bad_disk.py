"""Disks that are full or cannot be written: real ones, mounted for one command alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_preprocess import TEXTS, TOOL, as_records, write_jsonl

MOUNT = ["unshare", "--map-root-user", "--mount", "bash", "-c"]


@pytest.fixture
def start(tiny_tokenizer):
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tiny_tokenizer)]
    return [sys.executable, str(TOOL), *tokenizer, "--append-eod"]


@pytest.fixture
def with_tmpfs():
    """Run a command in a folder whose folder `out` is a file system of its own; its output ends with a list of `out`."""
    probe = [*MOUNT, "mount -t tmpfs tmpfs /tmp"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def run(folder: Path, options: str, command: list[str]) -> subprocess.CompletedProcess:
        script = f'mount -t tmpfs -o {options} tmpfs out && "$@"; code=$?; ls out; exit $code'
        return subprocess.run([*MOUNT, script, "bash", *command], cwd=folder, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk(tmp_path, start, with_tmpfs, workers):
    (tmp_path / "out").mkdir()
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text/a.jsonl", as_records(TEXTS))
    write_jsonl(tmp_path / "text/b.jsonl", as_records([f"Wasser {n} und Brot " * 1000 for n in range(300)]))
    folders = ["--input-dir", "text", "--output-dir", "out", "--workers", workers]
    done = with_tmpfs(tmp_path, "size=1m", [*start, *folders])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    stopped = re.search(r"error: out/([ab])_text_document: stopped: \[Errno 28\] No space left on device", done.stderr)
    assert stopped and "start again with --resume" in done.stderr
    first = [f"a_text_document.{ending}" for ending in ("bin", "idx", "manifest.json")]
    assert done.stdout.split() in ([first] if workers == "1" else [first, []])  # two workers write both at once


def test_a_folder_that_cannot_be_written(tmp_path, start, with_tmpfs):
    (tmp_path / "out").mkdir()
    write_jsonl(tmp_path / "a.jsonl", as_records(TEXTS))
    files = ["--input", "a.jsonl", "--output-prefix", "out/a"]
    done = with_tmpfs(tmp_path, "ro", [*start, *files])
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    assert (
        "error: out/a_text_document: stopped: [Errno 30] Read-only file system: 'out/a_text_document.shards'" in done.stderr
    )


def test_a_file_where_the_folder_is_to_be(tmp_path, start):
    write_jsonl(tmp_path / "a.jsonl", as_records(TEXTS))
    for resume in ([], ["--resume"]):
        command = [*start, "--input", "a.jsonl", "--output-prefix", "a.jsonl/deep/a", *resume]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1
        assert "a.jsonl/deep/a_text_document: a.jsonl is a file; give another prefix" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_run_in_a_folder_that_cannot_be_written(tiny_run, with_tmpfs):
    (tiny_run.parent / "out").mkdir()
    train = [sys.executable, "-m", "megatron_lmt.train", "run.toml", "--dry-run"]
    for folder in ("out", "out/run"):
        done = with_tmpfs(tiny_run.parent, "ro", [*train, f"output_dir={folder}"])
        assert done.returncode == 2 and done.stderr.count("error: ") == 1
        assert f"{tiny_run.parent}/out: Read-only file system; name another folder" in done.stderr


def test_a_tokenizer_that_ends_no_document(tmp_path, start, tiny_tokenizer):
    definition = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] != "<|endoftext|>"]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps(definition))
    write_jsonl(tmp_path / "a.jsonl", as_records(TEXTS))
    start[start.index("--tokenizer-model") + 1] = str(tmp_path / "tokenizer")
    files = ["--input", str(tmp_path / "a.jsonl"), "--output-prefix", str(tmp_path / "a")]
    done = subprocess.run([*start, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tokenizer: nothing ends a document: neither <|endoftext|> nor an eos_token is in its vocabulary" in done.stderr
    assert not list(tmp_path.glob("a_text*"))
    without = [argument for argument in start if argument != "--append-eod"]
    assert subprocess.run([*without, *files], capture_output=True, timeout=60).returncode == 0


def test_an_empty_file_among_others(tmp_path, start):
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text/a.jsonl", as_records(TEXTS))
    (tmp_path / "text/b.jsonl").touch()
    folders = ["--input-dir", str(tmp_path / "text"), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([*start, *folders], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "b.jsonl: no document in it" in done.stderr
    assert not (tmp_path / "out").exists()


PAIRS = '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-de"]\n'
CLEAN = "[clean]\nduplicates = { cache_mb = 1 }\nnear_duplicates = { cache_mb = 1 }\n"


@pytest.mark.parametrize(
    ("clean", "options", "reason"),
    [
        ("", "size=1m", r"\[Errno 28\] No space left on device"),
        (CLEAN, "size=5m", "database or disk is full"),
        ("", "ro", r"\[Errno 30\] Read-only file system: 'out/x.unfinished'"),
    ],
)
def test_the_corpus_builder_on_such_disks(tmp_path, with_tmpfs, clean, options, reason):
    """5 MB: the tables of duplicates are larger than the corpus."""
    pytest.importorskip("rensa", reason="needs the extra: pip install -e '.[clean]'")
    (tmp_path / "out").mkdir()
    rows = (f"The house {n} by the river {n * 7919}\tDas Haus {n} am Fluss {n * 7919}\n" for n in range(20_000))
    (tmp_path / "en-de.tsv").write_text("".join(rows))
    (tmp_path / "c.toml").write_text(clean + PAIRS)
    build = [sys.executable, str(TOOL.with_name("build_corpus.py")), "cpt", "--config", "c.toml", "--output", "out/x"]
    done = with_tmpfs(tmp_path, options, build)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    assert re.search(f"error: out/x: stopped: {reason}; nothing is left of it", done.stderr), done.stderr
