"""What is finished of one source, so that a run which was killed goes on there.

Beside the token files to be made stands a folder `<prefix>.shards`, in which `all.bin` grows. A shard is the documents
of some 256 MB of text: their tokens in it, an index of them, a file of the records rejected among them, and a marker that
is written last and says where the next shard begins. Who goes on cuts off what is behind the last marker. At the end the
indexes are merged, the token files get their names, and the folder goes.

Where shards are cut does not show in the result, which is the same whether a run was interrupted or not.

Cost: tokens are written once; those of an interrupted run are read again at the end, for their hash. A thread brings a
shard to disk while the next one grows, so a run that is killed loses two.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from megatron_lmt.data.indexed import best_dtype, bin_path, idx_path, manifest_path, rejected_path
from megatron_lmt.data.indexed_writer import IndexedWriter, TokensFile, write_parts
from megatron_lmt.errors import DataError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.preprocessing.edges import EdgeTokens
from megatron_lmt.preprocessing.merge import merge_indexes
from megatron_lmt.preprocessing.quarantine import Quarantine
from megatron_lmt.preprocessing.text_files import Position
from megatron_lmt.preprocessing.tokenising import Tokens

SHARD_BYTES = 256 << 20
"""Of text: at 5 MB a second and worker, twice this is lost when a run is killed. Its index takes some 50 MB of memory."""


def shards_folder(prefix: Path) -> Path:
    return Path(f"{prefix}.shards")


def known_job(prefix: Path) -> dict | None:
    """What the shards of `prefix` are to become part of. None: the run was killed before it could say so."""
    file = shards_folder(prefix) / "job.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _lock(folder: Path) -> TextIO:
    """Keep other runs out as long as this file is open, which ends with the process."""
    file = open(folder / "lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataError(f"{folder}: another run is at work here; wait for it, or give another prefix") from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP):  # some cluster file systems have no locks: go without
            raise
    return file


class Shards:
    """The shards of one source: those of an interrupted run, and those that are added.

    Leaving it by an exception keeps the finished shards, if any has a document; leaving it in order removes all.
    `documents`: how many were written until now.

    Args:
        prefix: of the token files to be made, in a folder that exists.
        job: what decides the tokens; JSON.
        vocab_size: of the tokenizer.
        modes: LOSS or CONTEXT for each sequence of a document, or None.
        max_bad_lines: how many records may be rejected in all.
    Raises:
        DataError: another run is at work here, or has finished meanwhile.
    """

    def __init__(self, prefix: Path, job: dict, vocab_size: int, modes: list[int] | None, max_bad_lines: int):
        self._prefix, self._dtype, self._modes, self._max_bad_lines = prefix, best_dtype(vocab_size), modes, max_bad_lines
        self._folder = shards_folder(prefix)
        self._all = self._folder / "all"
        self._writing = ExitStack()
        self._thread = ThreadPoolExecutor(1)
        self._settling: Future[dict] | None = None
        self._folder.mkdir(exist_ok=True)
        self._lock = _lock(self._folder)
        if manifest_path(prefix).exists():  # since it was looked for
            shutil.rmtree(self._folder)
            self._lock.close()
            raise DataError(f"{prefix}: another run has finished it meanwhile; give another prefix, or delete its files")
        write_json_atomically(self._folder / "job.json", job)
        self._finished = self._read_markers()
        self._remove_unfinished()
        self._file = self._open_tokens()
        self._writer: IndexedWriter | None = None
        self._quarantine: Quarantine | None = None
        self.documents = sum(marker["counts"]["documents"] for marker in self._finished)
        self.edges = EdgeTokens(vocab_size)
        self._text: Counter[str] = Counter(self._finished[-1]["text"] if self._finished else {"words": 0, "characters": 0})
        if self._finished:
            self.edges.load(self._edges_path(len(self._finished) - 1))

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with ExitStack() as ends:  # each of which is come to, whatever fails
            ends.callback(self._lock.close)
            ends.callback(self._leave_folder, kind is None)
            ends.callback(self._file.close)
            ends.callback(self._thread.shutdown)
            ends.callback(self._settle)
            self._writing.__exit__(kind, error, traceback)

    def _leave_folder(self, is_complete: bool) -> None:
        self._remove_unfinished()
        has_documents = any(marker["counts"]["documents"] for marker in self._finished)
        # token files that have their names, but no manifest yet, can be gone on with only if the folder stays
        if is_complete or not (has_documents or bin_path(self._prefix).exists()):
            shutil.rmtree(self._folder)

    def _read_markers(self) -> list[dict]:
        markers = []
        while (marker := self._marker(len(markers))).exists():
            markers.append(json.loads(marker.read_text(encoding="utf-8")))
        return markers

    def _open_tokens(self) -> TokensFile:
        if bin_path(self._prefix).exists():  # it got its name, but no manifest
            bin_path(self._prefix).rename(bin_path(self._all))
        return TokensFile(bin_path(self._all), start=sum(marker["counts"]["bin_bytes"] for marker in self._finished))

    def _remove_unfinished(self) -> None:
        finished = {self._shard(number).name for number in range(len(self._finished))}
        for file in self._folder.iterdir():
            if file.name not in ("job.json", "lock", bin_path(self._all).name) and file.name.split(".")[0] not in finished:
                file.unlink()

    def _shard(self, number: int) -> Path:
        return self._folder / f"{number:06d}"

    def _marker(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"

    def _edges_path(self, number: int) -> Path:
        """First and last tokens of this shard and all before."""
        return self._folder / f"{number:06d}.edges.npy"

    @property
    def position(self) -> Position:
        """Where the text begins that is not yet in a finished shard."""
        return Position(**self._finished[-1]["end"]) if self._finished else Position()

    @property
    def rejected(self) -> dict[str, int]:
        """How many records were rejected until now, by reason."""
        if self._quarantine:
            return self._quarantine.counts
        return self._finished[-1]["rejected"] if self._finished else {}

    @property
    def text(self) -> dict[str, int]:
        """Words, between spaces, and characters of the documents written until now."""
        return dict(self._text)

    def add(self, result: Tokens) -> None:
        """Append the documents of a chunk, which must be the next one.

        Raises:
            DataError: too many records were rejected.
        """
        if not self._writer:
            self._begin_shard()
        self._quarantine.add(result.rejected)
        self._writer.add_documents(result.tokens, result.lengths, self._modes)
        self.edges.add(result.tokens, result.lengths)
        self.documents += len(result.lengths)
        self._text.update(words=result.words, characters=result.characters)
        self._text_bytes += result.text_bytes
        self._end = result.end
        if self._text_bytes >= SHARD_BYTES:
            self._finish_shard()

    def _begin_shard(self) -> None:
        shard = self._shard(len(self._finished) + bool(self._settling))
        quarantine = Quarantine(rejected_path(shard), self._max_bad_lines, self.rejected)
        self._quarantine = self._writing.enter_context(quarantine)
        self._writer = self._writing.enter_context(IndexedWriter(shard, self._dtype, bool(self._modes), self._file))
        self._text_bytes = 0

    def _finish_shard(self) -> None:
        self._settle()
        number, writer, self._writer = len(self._finished), self._writer, None
        marker = {"rejected": self.rejected, "end": asdict(self._end), "text": self.text}
        self.edges.save(self._edges_path(number))
        self._settling = self._thread.submit(self._bring_to_disk, number, writer, self._writing.pop_all(), marker)

    def _bring_to_disk(self, number: int, writer: IndexedWriter, writing: ExitStack, marker: dict) -> dict:
        with writing:
            marker["counts"] = writer.close()
        write_json_atomically(self._marker(number), marker)
        return marker

    def _settle(self) -> None:
        """Wait until the last shard is on disk."""
        if self._settling:
            settling, self._settling = self._settling, None
            self._finished.append(settling.result())

    def finish(self) -> dict:
        """Give the token files and the rejected records their names; returns counts and hashes for the manifest."""
        if self._finished or self._settling:
            whole, counts = self._all, self._merge()
        else:  # a single shard needs neither marker nor merging
            with self._writing:
                whole, counts = self._shard(0), self._writer.close()
        counts["xxh128"] = self._file.xxh128()
        for path, unnamed in ((rejected_path, whole), (bin_path, self._all), (idx_path, whole)):
            if path(unnamed).exists():
                path(unnamed).rename(path(self._prefix))
        return counts

    def _merge(self) -> dict:
        if self._writer:
            self._finish_shard()
        self._settle()
        shards = [self._shard(number) for number in range(len(self._finished))]
        rejected = [rejected_path(shard) for shard in shards if rejected_path(shard).exists()]
        if rejected:
            write_parts(rejected_path(self._all), (file.read_bytes() for file in rejected))  # gzip files may be joined
        return merge_indexes([(s, marker["counts"]) for s, marker in zip(shards, self._finished, strict=True)], self._all)
