"""Starting from a Hugging Face folder: what one tensor- and pipeline-parallel rank reads, how long, and with what memory.

    python -m benchmarks.read_slices --size 1.7B --tensor 2 --pipeline 2

Random weights of a real shape; the slices are read as the trainer does, one parameter at a time, and dropped. Memory is
beyond the imports: what a rank needs besides the parameters it fills.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.convert import SIZES, forget_cached, write_model
from benchmarks.machine import machine
from megatron_lmt.errors import run_command
from megatron_lmt.model.hf_folder import SafetensorsFolder
from megatron_lmt.model.hf_io import FolderTensors
from megatron_lmt.model.hf_mapping import mappings
from megatron_lmt.model.hf_slices import shard_from_hf
from megatron_lmt.model.shape import read_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.7B")
    parser.add_argument("--tensor", type=int, default=2, help="tensor-parallel size (default 2)")
    parser.add_argument("--pipeline", type=int, default=1, help="pipeline-parallel size (default 1)")
    parser.add_argument("--folder", type=Path, help="where the model is written meanwhile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="slices_benchmark.") as folder:
        model = Path(folder) / "hf"
        num_bytes = write_model(model, arguments.size)
        forget_cached(model)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
        before, read_before = _status("VmRSS"), _bytes_from_disk()
        began = time.perf_counter()
        slices = _read(model, arguments.tensor, arguments.pipeline)
        seconds, from_disk = time.perf_counter() - began, _bytes_from_disk() - read_before
    print(
        f"{arguments.size}, TP{arguments.tensor} PP{arguments.pipeline}, first rank: {slices / 1e9:.2f} GB of "
        f"{num_bytes / 1e9:.2f} GB are its own; {from_disk / 1e9:.2f} GB came from the disk in {seconds:.2f} s, "
        f"with at most {max(_status('VmHWM') - before, 0) / 1024:.0f} MB of memory. {machine()}"
    )


def _read(folder: Path, tensor: int, pipeline: int) -> int:
    """Read every slice of the first rank; returns their bytes."""
    shape = read_shape(folder)
    source, total = FolderTensors(SafetensorsFolder(folder, shape)), 0
    layers = shape.num_hidden_layers // pipeline
    for mapping in mappings(shape):
        place = mapping.megatron.split(".")
        on_first_stage = place[0] == "embedding" or pipeline == 1 or (place[1] == "layers" and int(place[2]) < layers)
        if on_first_stage:
            total += shard_from_hf(mapping, shape, source, 0, tensor).nbytes
    return total


def _status(name: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _bytes_from_disk() -> int:
    """With what the kernel reads ahead."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


if __name__ == "__main__":
    run_command(main)
