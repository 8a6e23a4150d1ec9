"""Whether the files of a checkpoint are still what was written: compared with its manifest while it is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from megatron_lmt.conversion.mcore_source import McoreSource
from megatron_lmt.runtime.checkpoint_folder import refuse_if
from megatron_lmt.runtime.checkpoint_manifest import hash_problems, read_manifest, tensor_files

THREADS = 2


@contextmanager
def hashing(checkpoint: McoreSource, wanted: bool) -> Iterator[Callable[[], None]]:
    """Hash the tensor files of a checkpoint in threads; small files were compared when it was found.

    Plain Megatron-LM has no manifest, so there is nothing to compare.

    Yields:
        a function that waits for the end, to be called before the result gets its name. It raises a CheckpointError that
        lists the files that were damaged.
    """
    folder = checkpoint.folder
    files = read_manifest(folder) if wanted and checkpoint.run_state is not None else {}
    with ThreadPoolExecutor(THREADS) as threads:
        found = [threads.submit(hash_problems, folder, files, [name]) for name in tensor_files(files)]
        try:
            yield lambda: refuse_if([problem for of_file in found for problem in of_file.result()], folder)
        finally:
            threads.shutdown(cancel_futures=True)
