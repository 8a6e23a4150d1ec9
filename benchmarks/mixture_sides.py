"""One side of `mixture.py`, in a process of its own: from opened files to batches. Prints its measurements as JSON.

Both sides get the same token files, weights, seed and batch shape, and one thread. Time counts from after the imports.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_lmt.config import RunConfig
from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.loader import BatchShape, global_batches
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.data.weights import Plan, make_plan, source_prefixes

SEED = 1234


@dataclass(frozen=True)
class Task:
    """What to measure.

    `run_samples` is the length of the whole run, which megatron-core plans at its start; `batches` global batches are
    drawn after the first one. `cache` and `workers` are megatron-core's alone.
    """

    side: str
    folder: str
    run_samples: int
    batches: int
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    workers: int
    cache: str


def run_of(folder: Path, run_samples: int, seq_length: int, global_batch_size: int) -> RunConfig:
    """A run with LMT's mixture: 60 languages and 234 directions in three groups 1:1:1."""
    mixture = {
        "mono": {"weight": 1, "path": "mono.{language}", "languages": "all"},
        "en": {"weight": 1, "path": "{direction}", "directions": "en-centric"},
        "zh": {"weight": 1, "path": "{direction}", "directions": "zh-centric"},
    }
    tokenizer = {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": "none"}
    batch = {"micro_batch_size": 1, "global_batch_size": global_batch_size}
    return RunConfig.model_validate(
        {
            "root": folder,
            "output_dir": folder,
            "model": {"hf_config": "none"},
            "data": {**tokenizer, "seq_length": seq_length, "mixture": mixture},
            "train": {"train_samples": run_samples, **batch},
            "checkpoint": {"save_interval": 1},
        }
    )


def prefixes_of(run: RunConfig) -> dict[str, Path]:
    return {name: prefix for group in source_prefixes(run).values() for name, prefix in group.items()}


def _open(task: Task) -> tuple[Plan, dict[str, IndexedReader]]:
    run = run_of(Path(task.folder), task.run_samples, task.seq_length, task.global_batch_size)
    readers = {name: IndexedReader(prefix) for name, prefix in prefixes_of(run).items()}
    return make_plan(run, readers), readers


def start_ours(task: Task) -> Iterator[Any]:
    """Global batches of megatron_lmt, read by its thread."""
    plan, readers = _open(task)
    mixture = Mixture(plan, readers, SEED, task.seq_length, "documents")
    shape = BatchShape(task.seq_length, task.micro_batch_size, task.global_batch_size, 0, 1)
    return global_batches(mixture, [readers[source.name] for source in plan.sources], shape)


def prepare_megatron() -> Callable[[Task], Iterator[Any]]:
    """Import megatron-core and open the process group that its datasets ask for."""
    from megatron_lmt.runtime.device import open_device

    open_device()  # before any import of megatron-core
    from megatron.core.datasets import helpers_cpp  # noqa: F401  compiled in the wheel; not part of the time
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    def start(task: Task) -> Iterator[Any]:
        plan, _ = _open(task)  # for the names and weights: 20 ms
        config = GPTDatasetConfig(
            random_seed=SEED,
            sequence_length=task.seq_length,
            blend=([str(source.prefix) for source in plan.sources], plan.phases[0].weights),
            split="1,0,0",
            path_to_cache=task.cache,
            tokenizer=_NoTokenizer(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        dataset, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [task.run_samples, 0, 0], lambda: True, config).build()
        loader = torch.utils.data.DataLoader(dataset, batch_size=task.micro_batch_size, num_workers=task.workers)
        return _groups(iter(loader), task.global_batch_size // task.micro_batch_size)

    return start


class _NoTokenizer:
    """What GPTDataset asks of a tokenizer; no token is ever encoded."""

    vocab_size = 151_936
    eod = 151_643
    unique_identifiers: dict[str, str] = {}


def _groups(micro_batches: Iterator[Any], count: int) -> Iterator[list[Any]]:
    while group := list(itertools.islice(micro_batches, count)):
        yield group


def measure(task: Task, start: Callable[[Task], Iterator[Any]]) -> dict[str, float]:
    """Seconds to the first global batch, samples/s after it, and MB of memory.

    `start_mb` is what the process holds after the imports, `held_mb` what it and its workers hold at the end, pages
    shared between them counted once. Both without mapped files.
    """
    start_mb = held_mb()
    began = time.perf_counter()
    batches = start(task)
    next(batches)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(task.batches):
        next(batches)
    rate = task.batches * task.global_batch_size / (time.perf_counter() - began)
    return {"first_batch_s": first, "samples_per_s": rate, "start_mb": start_mb, "held_mb": held_mb() - start_mb}


def held_mb() -> float:
    """Memory of this process and its children, without mapped files: those pages are the system's to drop."""
    processes = ["self", *(child.pid for child in multiprocessing.active_children())]
    lines = [line for process in processes for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    torch.set_num_threads(1)
    start = start_ours if task.side == "ours" else prepare_megatron()
    print(json.dumps(measure(task, start)), flush=True)


if __name__ == "__main__":
    main()
