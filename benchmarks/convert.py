"""Conversion against a plain copy of the same bytes, on random weights of real shapes.

    python -m benchmarks.convert                           # 0.6B and 1.7B, one process
    python -m benchmarks.convert --sizes 4B --workers 4

For each size: copy the folder (read, write, flush), convert it to a checkpoint, convert that back. Each starts with its
input out of the page cache as far as the file system allows. The converter is a process of its own, and its start,
measured by `--help`, is in its seconds; the last column of times leaves it out. Peak is the process's largest resident
memory, workers not included. CPU seconds say more than seconds on a machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from megatron_lmt.conversion.pieces import Segment
from megatron_lmt.conversion.safetensors_writer import ShardWriter, create_shards, plan_shards
from megatron_lmt.errors import UserError, run_command
from megatron_lmt.files import write_json_atomically
from megatron_lmt.model.hf_mapping import hf_tensor_shapes
from megatron_lmt.model.shape import read_shape

TOOL = Path(__file__).resolve().parents[1] / "tools" / "checkpoint" / "convert.py"
SIZES = {
    # Qwen3: hidden, ffn, layers, heads, tied
    "tiny": (64, 128, 2, 4, True),
    "0.6B": (1024, 3072, 28, 16, True),
    "1.7B": (2048, 6144, 28, 16, True),
    "4B": (2560, 9728, 36, 32, True),
    "8B": (4096, 12288, 36, 32, False),
    "14B": (5120, 17408, 40, 40, False),
    "32B": (5120, 25600, 64, 64, False),
}
COPY, START = "copy", "start of the converter"
SHARD_BYTES = 5 * 10**9
BLOCK_ROWS = 4096


def main() -> None:
    arguments = _parse_arguments()
    results = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="convert_benchmark.") as folder:
            num_bytes = write_model(Path(folder) / "hf", size)
            rounds = [_round(Path(folder), arguments.workers) for _ in range(arguments.repeats)]
        medians = {
            name: {key: statistics.median(measured[name][key] for measured in rounds) for key in rounds[0][name]}
            for name in rounds[0]
        }
        results[size] = {"bytes": num_bytes, "medians": medians, "rounds": rounds}
    print("\n".join(_table(results, arguments)))
    if arguments.output:
        write_json_atomically(arguments.output, results)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=("0.6B", "1.7B"))
    parser.add_argument("--workers", type=int, default=1, help="of the converter (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="the table shows medians (default 3)")
    parser.add_argument("--folder", type=Path, help="where the models are written meanwhile: four times their size")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all measurements")
    return parser.parse_args()


def write_model(folder: Path, size: str) -> int:
    """A Hugging Face folder in bfloat16, sharded, without a tokenizer; returns the bytes of its weights."""
    hidden, ffn, layers, heads, tied = SIZES[size]
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 151936 if size != "tiny" else 1000,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": min(heads, 8),
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = hf_tensor_shapes(read_shape(folder))
    plan = plan_shards(shapes, "bfloat16", SHARD_BYTES)
    create_shards(folder, plan)
    generator = np.random.default_rng(1)
    with ShardWriter(folder, plan) as writer:
        for name, (rows, *columns) in shapes.items():
            for start in range(0, rows, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, rows)
                block = generator.standard_normal((stop - start, *columns), np.float32).view(np.uint32) >> 16  # bfloat16
                writer.write(Segment(name, start, stop), block.astype(np.uint16))
    return plan.num_bytes


def _round(folder: Path, workers: int) -> dict[str, dict]:
    measured = {START: _measure([sys.executable, TOOL, "--help"])}
    for name, source, target, command in (
        (COPY, "hf", "copy", None),
        ("hf → mcore", "hf", "mcore", ("--loader", "hf", "--saver", "mcore")),
        ("mcore → hf", "mcore", "back", ("--loader", "mcore", "--saver", "hf")),
    ):
        forget_cached(folder / source)
        if command:
            paths = ("--load-dir", folder / source, "--save-dir", folder / target, "--workers", workers)
            measured[name] = _measure([sys.executable, TOOL, *command, *paths])
        else:
            measured[name] = _copy(folder / source, folder / target)
        print(f"{name}: {measured[name]}", file=sys.stderr)
    for made in ("copy", "mcore", "back"):
        shutil.rmtree(folder / made)
    return measured


def _copy(source: Path, target: Path) -> dict[str, float]:
    """As `cp` and a flush of each file."""
    target.mkdir()
    began, cpu = time.perf_counter(), time.process_time()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        with open(target / file.name, "rb") as copy:
            os.fsync(copy.fileno())
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu, "peak_mb": 0.0}


def _measure(command: list) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(sys.executable, [str(word) for word in command], environment, file_actions=silent)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise UserError(f"{' '.join(map(str, command))} ended with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024}


def forget_cached(folder: Path) -> None:
    """Put files out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _table(results: dict, arguments: argparse.Namespace) -> list[str]:
    """Markdown, so that it can be copied into docs/benchmarks.md."""
    lines = [
        f"{arguments.workers} worker(s), median of {arguments.repeats}. {machine('numpy')}",
        "",
        "| | GB | seconds | CPU seconds | times a copy | without the start | peak, MB |",
        "|---" * 7 + "|",
    ]
    for size, result in results.items():
        copy, start = (result["medians"][name]["seconds"] for name in (COPY, START))
        for name, values in result["medians"].items():
            seconds, gigabytes = values["seconds"], result["bytes"] / 1e9
            is_conversion = name not in (COPY, START)
            times = f"{seconds / copy:.2f} | {(seconds - start) / copy:.2f}" if is_conversion else " | "
            peak = f"{values['peak_mb']:,.0f}" if values["peak_mb"] else ""
            lines.append(
                f"| {size}, {name} | {gigabytes:.2f} | {seconds:.2f} | {values['cpu_seconds']:.2f} | {times} | {peak} |"
            )
    return lines


if __name__ == "__main__":
    run_command(main)
