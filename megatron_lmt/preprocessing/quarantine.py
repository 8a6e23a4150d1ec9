"""Records that were read and not written: each is kept with its reason, and no more than a limit of them is accepted."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from megatron_lmt.errors import DataError
from megatron_lmt.preprocessing.parsing import Rejected


def counted(reasons: dict[str, int]) -> str:
    """Such as "broken_json 3, empty 1", the most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(reasons).most_common())


class Quarantine:
    """Writes rejected records to a gzipped jsonl file, which is made with the first of them.

    Each has `file`, `line`, `reason` (a short code), `message`, and `raw`: the line, with bytes that are not UTF-8 as
    backslash escapes.

    Args:
        path: of the file.
        most: how many are accepted; 0: the first one is an error.
        before: how many there were already, by reason.
    """

    def __init__(self, path: Path, most: int, before: dict[str, int] | None = None):
        self._path = path
        self._most = most
        self._counts = Counter(before or {})
        self._file: gzip.GzipFile | None = None
        self._stack = ExitStack()

    @property
    def counts(self) -> dict[str, int]:
        """Reason → how many, sorted by reason."""
        return dict(sorted(self._counts.items()))

    def add(self, records: list[Rejected]) -> None:
        """
        Raises:
            DataError: there are more than the limit.
        """
        for record in records:
            self._counts[record.reason] += 1
            if self._counts.total() > self._most:
                raise DataError(self._too_many(record))
            if not self._file:
                # neither name nor time: the same records are the same bytes
                self._file = gzip.GzipFile("", "wb", fileobj=self._stack.enter_context(open(self._path, "wb")), mtime=0)
                self._stack.push(self._file)
            raw = record.raw.decode("utf-8", "backslashreplace")
            content = {"file": record.file, "line": record.line, "reason": record.reason}
            content |= {"message": record.message, "raw": raw}
            self._file.write(json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def _too_many(self, record: Rejected) -> str:
        if not self._most:
            fix = "say which keys with --json-keys" if record.reason == "missing_key" else "mend the line"
            return f"{record.message}; {fix}, or add --on-bad-line quarantine to set bad lines aside"
        return (
            f"{record.message}; that is one bad line more than --max-bad-lines {self._most} ({counted(self.counts)}): mend "
            "the input, or raise the limit"
        )

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._stack.close()
