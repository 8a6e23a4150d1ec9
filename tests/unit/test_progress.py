"""What a terminal of 80 columns, and a log file, show of long work."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

TOKENISES = """
from megatron_lmt.progress import Pace, progress
with progress({total}, "tokenising") as bar:
    pace = Pace(bar)
    pace._began -= 100
    bar.start_t -= 100
    pace.add(10**9, 12_345_678, 2_345_678_900, 43_210_000_000, 12_345)
"""


def on_terminal(program: str, columns: int) -> list[str]:
    """The states of a line, one after the other, that a program draws on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        drawn = b""
        try:
            while part := os.read(ours, 4096):
                drawn += part
        except OSError:  # Linux: the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0, drawn.decode()
    return [state for state in drawn.decode().replace("\n", "\r").split("\r") if state.strip()]


@pytest.mark.parametrize("columns", [80, 160])
def test_all_that_matters_is_seen_on_a_terminal(columns):
    state = on_terminal(TOKENISES.format(total=4 * 10**9), columns)[-1]
    assert len(state) <= columns
    assert "25 %, 05:00 left, 12,345 rejected, 123k documents/s, 23.5M tokens/s, 432MB/s" in state
    assert ("█" in state) == (columns == 160)


def test_a_log_has_a_line_for_each_state_with_and_without_a_known_end():
    def log(total):
        done = subprocess.run([sys.executable, "-c", TOKENISES.format(total=total)], capture_output=True, text=True)
        assert done.returncode == 0 and "\r" not in done.stderr, done.stderr
        return done.stderr.splitlines()[-1]

    pace = ", 12,345 rejected, 123k documents/s, 23.5M tokens/s, 432MB/s"
    assert log(4 * 10**9) == f"tokenising: 25 % of 4.00G, 10.0MB/s, 01:40 passed, 05:00 left{pace}"
    assert log(0) == f"tokenising: 1.00GB, 10.0MB/s, 01:40 passed{pace}"
