"""The mixture of 294 sources against megatron-core's blended datasets, on indexes made for it.

    python -m benchmarks.mixture                                        # 1 million documents, both sides
    python -m benchmarks.mixture --documents 1500000000 --batches 1     # 30 GB of indexes

Read ratios: both sides ran on the same machine, one after the other, each in a process of its own with one thread. A
first round, not counted, brings the pages that a side reads into the page cache: samples/s mean something only where
they fit in. megatron-core starts with an empty cache folder ("cold"), or with the one of its first run ("warm").

Memory is above what the imports took, without the pages of mapped files: peak is the main process's largest, looked at 20
times a second; held is at the end, with workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.mixture_sides import Task, prefixes_of, run_of
from benchmarks.synthetic_tokens import write_sources
from megatron_lmt.errors import ConfigError, UserError, run_command
from megatron_lmt.files import write_json_atomically

SIDES = {
    # name: side, data loader workers, keeps the cache of the side before
    "ours": ("ours", 0, False),
    "megatron-core, 2 workers, cold": ("megatron", 2, False),
    "megatron-core, 0 workers, cold": ("megatron", 0, False),
    "megatron-core, 0 workers, warm": ("megatron", 0, True),
}
SECONDS_BETWEEN_LOOKS = 0.05
COLUMNS = {
    "first_batch_s": "first batch, s",
    "samples_per_s": "samples/s",
    "peak_mb": "peak, MB",
    "held_mb": "held, MB",
}


def main() -> None:
    arguments = _parse_arguments()
    sides = {name: side for name, side in SIDES.items() if side[0] in arguments.sides}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="mixture_benchmark.") as folder:
        drawn = (arguments.batches + 1) * arguments.global_batch_size
        prefixes = prefixes_of(run_of(Path(folder), drawn, arguments.seq_length, arguments.global_batch_size))
        if arguments.documents < len(prefixes):
            raise ConfigError(f"--documents {arguments.documents}: give at least one to each of {len(prefixes)} sources")
        tokens = write_sources(list(prefixes.values()), arguments.documents)
        run_samples = max(tokens // arguments.seq_length, drawn)
        rounds = [_round(sides, folder, run_samples, arguments, number) for number in range(arguments.repeats + 1)][1:]
    medians = {
        name: {key: statistics.median(measured[name][key] for measured in rounds) for key in COLUMNS} for name in sides
    }
    setting = {
        "sources": len(prefixes),
        "documents": arguments.documents,
        "tokens": tokens,
        "run_samples": run_samples,
        "drawn_samples": drawn,
        "repeats": arguments.repeats,
        "machine": machine("megatron-core", "torch", "numpy"),
    }
    print("\n".join(_table(setting, medians)))
    if arguments.output:
        write_json_atomically(arguments.output, {"setting": setting, "medians": medians, "rounds": rounds})


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000, help="of all 294 sources (default: 1000000)")
    parser.add_argument("--sides", nargs="+", choices=("ours", "megatron"), default=("ours", "megatron"))
    parser.add_argument("--repeats", type=int, default=3, help="the table shows medians (default: 3)")
    parser.add_argument("--batches", type=int, default=100, help="global batches drawn after the first (default: 100)")
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--global-batch-size", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the indexes are written meanwhile, 20 bytes a document")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all measurements")
    return parser.parse_args()


def _round(sides: dict, folder: str, run_samples: int, arguments: argparse.Namespace, number: int) -> dict[str, dict]:
    measured, cache = {}, ""
    for name, (side, workers, keeps_cache) in sides.items():
        cache = cache if keeps_cache else f"{folder}/cache.{number}.{workers}"
        task = Task(
            side=side,
            folder=folder,
            run_samples=run_samples,
            batches=arguments.batches,
            seq_length=arguments.seq_length,
            micro_batch_size=arguments.micro_batch_size,
            global_batch_size=arguments.global_batch_size,
            workers=workers,
            cache=cache,
        )
        measured[name] = _in_own_process(task)
        print(f"round {number}, {name}: {measured[name]}", file=sys.stderr)
    return measured


def _in_own_process(task: Task) -> dict:
    command = [sys.executable, "-m", "benchmarks.mixture_sides", json.dumps(asdict(task))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    peak = 0.0
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        while process.poll() is None:
            peak = max(peak, _unmapped_mb(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        output.seek(0), errors.seek(0)
        if process.returncode:
            raise UserError(f"{task} ended with code {process.returncode}:\n{errors.read()[-2000:]}")
        measured = json.loads(output.read().splitlines()[-1])
    return {**measured, "peak_mb": peak - measured["start_mb"]}


def _unmapped_mb(pid: int) -> float:
    """Resident memory of a process without the pages of mapped files; 0 when it has just ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) / 1024


def _table(setting: dict, medians: dict[str, dict]) -> list[str]:
    """Markdown, so that it can be copied into docs/benchmarks.md; in brackets, how many times the value of ours."""
    lines = [
        f"{setting['sources']} sources, {setting['documents']:,} documents, {setting['tokens']:,} tokens; a run of "
        f"{setting['run_samples']:,} samples, {setting['drawn_samples']:,} drawn; median of {setting['repeats']}.",
        setting["machine"],
        "",
        f"| | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, values in medians.items():
        ours = medians.get("ours", values)
        cells = [f"{values[key]:,.1f} ({values[key] / ours[key]:.2f})" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    run_command(main)
