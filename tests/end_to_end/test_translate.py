"""tools/translate.py as a process that is killed and started again."""

import gzip
import subprocess
import sys

from tests.conftest import REPOSITORY
from tests.end_to_end.processes import environment, tool
from tests.unit.test_translate import AWKWARD


def test_a_killed_translation_goes_on_and_has_a_line_for_each_line(tmp_path, tiny_exported):
    lines = [f"The house {i} by the river was sold." for i in range(12)] + AWKWARD
    text = "\n".join(lines) + "\r\nthe last line has no end"
    with gzip.open(tmp_path / "de.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    arguments = ["--model", tiny_exported, "--direction", "de-ky", "--input", tmp_path / "de.gz", "--prompt", "pivot"]
    arguments += ["--num-beams", 2, "--max-new-tokens", 12, "--batch-size", 2, "--output"]
    output, unfinished = tmp_path / "ky.txt", tmp_path / "ky.txt.unfinished"

    command = [sys.executable, str(REPOSITORY / "tools" / "translate.py"), *map(str, [*arguments, output])]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (unfinished.is_file() and unfinished.read_text().count("\n") > 3):
            pass
        process.kill()
    assert not output.exists() and unfinished.is_file()
    assert "holds other work: num_beams differ" in tool("translate.py", *arguments, output, "--num-beams", 3, code=2)
    tool("translate.py", *arguments, output)
    tool("translate.py", *arguments, tmp_path / "whole.txt")

    translated = output.read_text(encoding="utf-8")
    assert translated == (tmp_path / "whole.txt").read_text(encoding="utf-8")
    assert translated.endswith("\n") and len(translated.splitlines()) == translated.count("\n") == text.count("\n") + 1
    assert [not line for line in translated.split("\n")[:-1]] == [not line.strip() for line in text.split("\n")]
    assert not unfinished.exists()
    assert "not written over" in tool("translate.py", *arguments, output, code=2)


def test_all_problems_are_told_before_the_model_is_loaded(tmp_path):
    (tmp_path / "out.txt").touch()
    output = tool(
        "translate.py",
        *("--model", tmp_path, "--direction", "en-ja", "--input", tmp_path / "none", "--output", tmp_path / "out.txt"),
        *("--prompt", "pmp-oracle", "--batch-size", "0"),
        code=2,
    )
    for problem in ("no auxiliary language", "no such file", "not written over", "belong together", "--batch-size 0"):
        assert problem in output
    assert "5 problems" in output
