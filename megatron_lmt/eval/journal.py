"""What a long translation job has done so far, so that it goes on after it was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_lmt.errors import ConfigError
from megatron_lmt.files import write_text_atomically


class Journal:
    """Finished lines, in the order in which they were finished, one JSON object each; the first says whose work it is.

    Args:
        path: the file; one that is there is gone on with.
        identity: all that decides the result.
    Raises:
        ConfigError: the file is of other work; says what differs.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self._path = path
        identity = json.loads(json.dumps(identity))
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # half a line is dropped
        records = [json.loads(line) for line in lines]
        if len(records) < 2:  # of work that had not begun
            records = [identity]
        differing = sorted(key for key in {**records[0], **identity} if records[0].get(key) != identity.get(key))
        if differing:
            raise ConfigError(
                f"{path} holds other work: {', '.join(differing)} differ; finish it with the same arguments, or delete it"
            )
        self._done = {(record["step"], record["line"]): record["text"] for record in records[1:]}
        write_text_atomically(path, "".join(f"{json.dumps(record)}\n" for record in records))
        self._file = open(path, "a", encoding="utf-8")

    def done(self, step: str) -> dict[int, str]:
        """Line number from 0 → text, of one step."""
        return {line: text for (found, line), text in self._done.items() if found == step}

    def add(self, step: str, texts: dict[int, str]) -> None:
        for line, text in texts.items():
            self._file.write(json.dumps({"step": step, "line": line, "text": text}) + "\n")
        self._file.flush()

    def delete(self) -> None:
        self._file.close()
        self._path.unlink()
