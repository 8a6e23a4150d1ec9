"""Wrong values on the command line: refused before any work, with the option and the reason."""

import argparse
import os
import subprocess
import sys

import pytest

from megatron_lmt.arguments import at_least, file_to_write, picture_to_write, positive, too_small
from megatron_lmt.errors import ConfigError
from megatron_lmt.files import write_text_atomically
from megatron_lmt.languages import split_direction
from megatron_lmt.toml_config import load_toml
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (at_least(1), "0", "0: must be at least 1"),
        (at_least(10), "9", "9: must be at least 10"),
        (at_least(1), "1.5", "invalid whole number value: '1.5'"),
        (positive, "0", "0: must be positive"),
        (positive, "nan", "nan: must be positive"),
        (positive, "inf", "inf: must be positive, and finite"),
        (positive, "many", "invalid positive value: 'many'"),
        (file_to_write, "folder", "folder: a folder; name a file"),
        (file_to_write, "absent/x", "absent: no such folder"),
        (file_to_write, "file/x", "file: no such folder"),
        (picture_to_write, "x.doc", "x.doc: must end in .png"),
        (picture_to_write, "absent/x.png", "absent: no such folder"),
    ],
)
def test_a_wrong_value(tmp_path, monkeypatch, capsys, kind, text, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    parser = argparse.ArgumentParser()
    parser.add_argument("--option", type=kind)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--option", text])
    assert ended.value.code == 2 and f"argument --option: {reason}" in capsys.readouterr().err


def test_all_that_are_too_small_are_told():
    arguments = argparse.Namespace(num_beams=0, max_sentences=None, batch_size=1, workers=-2)
    told = too_small(arguments, "num_beams", "max_sentences", "batch_size", "workers")
    assert told == ["--num-beams 0: must be at least 1", "--workers -2: must be at least 1"]


@pytest.mark.parametrize(
    ("stage", "other", "config"), [("cpt", "sft", "sft_corpus.toml"), ("sft", "cpt", "cpt_corpus.toml")]
)
def test_a_corpus_config_of_the_other_stage(tmp_path, stage, other, config):
    command = [sys.executable, "tools/build_corpus.py", stage, "--config", f"examples/quickstart/{config}"]
    done = subprocess.run([*command, "--output", str(tmp_path / "x")], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: examples/quickstart/{config}: made for `tools/build_corpus.py {other}`, not for {stage}\n"


def test_right_values(tmp_path):
    assert at_least(1)("1") == 1 and positive("0.5") == 0.5
    for name in ("there.png", "new.png"):
        (tmp_path / "there.png").touch()
        assert picture_to_write(str(tmp_path / name)) == tmp_path / name


def test_a_folder_is_not_said_to_be_absent(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}: a folder, and not a file"):
        load_toml(tmp_path)
    with pytest.raises(ConfigError, match="absent: no such file"):
        load_toml(tmp_path / "absent")


def test_a_direction_without_a_dash():
    with pytest.raises(ConfigError, match="^direction 'ende': write source-target, such as en-de$"):
        split_direction("ende")


def test_a_prefix_that_is_a_folder(tmp_path):
    command = [
        sys.executable,
        REPOSITORY / "tools/preprocess_data.py",
        "--input",
        "a.txt",
        "--output-prefix",
        f"{tmp_path}/",
    ]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", "tokenizer"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and f"argument --output-prefix: {tmp_path}/: a folder; add the beginning" in done.stderr


def test_a_file_that_cannot_be_written_is_named_as_the_user_named_it(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "file"):
        with pytest.raises(OSError) as caught:
            write_text_atomically(path, "text")
        assert caught.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == ["folder"]


def test_a_tool_needs_no_traceback_for_a_file(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, REPOSITORY / "tools/checkpoint/check_files.py", tmp_path / "file" / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"error: {tmp_path}/file/run: no such folder\n"
    script = "from megatron_lmt.errors import run_tool; run_tool(lambda: {})"
    for work, told in [
        (f"open({str(tmp_path)!r})", f"error: {tmp_path}: Is a directory\n"),
        ("open('/dev/full', 'w', 0 + 1).write('x' * 10**6)", "error: No space left on device\n"),
        ("print('x', file=open('/dev/full', 'w'), flush=True)", "error: No space left on device\n"),
    ]:
        done = subprocess.run([sys.executable, "-c", script.format(work)], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith(told), done.stderr
    done = subprocess.run([sys.executable, "-c", script.format("[][1]")], capture_output=True, text=True)
    assert done.returncode == 1 and "IndexError" in done.stderr  # a bug stays one
