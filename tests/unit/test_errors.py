"""How commands end, and what they say."""

import subprocess
import sys

from megatron_lmt.errors import print_problems, with_advice

PRINTS_MUCH = "from megatron_lmt.errors import run_command; run_command(lambda: print('a line\\n' * 100_000))"


def test_a_command_whose_output_nobody_reads_any_more_ends_without_a_word():
    with subprocess.Popen([sys.executable, "-c", PRINTS_MUCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"a line\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_advice_is_no_problem(capsys):
    print_problems(with_advice(["a is damaged"], "take b"))
    assert capsys.readouterr().err == "error: a is damaged\ntake b\n"
    print_problems(with_advice(["a is damaged", "c is missing"], "take b"))
    assert capsys.readouterr().err == "error: a is damaged\nerror: c is missing\ntake b\nerror: 2 problems\n"
