"""How long training stands still for a checkpoint: waiting for it, against writing in the background.

    python -m benchmarks.checkpoint RUN.toml --processes 2 train.train_iters=40 checkpoint.save_interval=10

Trains the run twice in new folders beside the run's own, which are deleted again. The last save is left out: a run always
waits for that. Seconds are medians over the other saves, from train.log.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from megatron_lmt.config import load_run
from megatron_lmt.errors import ConfigError, UserError, run_command
from megatron_lmt.runtime.checkpoint_folder import committed
from megatron_lmt.runtime.checkpoint_manifest import read_manifest

SAVED = re.compile(r"saved \S+ in ([\d.]+) s; training stood still for ([\d.]+) s of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_intermixed_args()
    run = load_run(arguments.run_file, arguments.overrides)
    if run.train_iters // run.checkpoint.save_interval < 2:
        raise ConfigError(
            f"{run.train_iters} iterations with checkpoint.save_interval = {run.checkpoint.save_interval}: "
            "there is no save before the last one"
        )
    run.output_dir.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with tempfile.TemporaryDirectory(dir=run.output_dir.parent, prefix="checkpoint_benchmark.") as folder:
        for name, in_background in (("waiting", "false"), ("in the background", "true")):
            output_dir = Path(folder) / in_background
            seconds, stall, size = _measure(arguments, output_dir, in_background)
            lines.append(f"| {name} | {size / 1e6:,.0f} | {seconds:.1f} | {stall:.1f} |")
            shutil.rmtree(output_dir)
    print(machine("megatron-core", "torch"))
    print("| saving | MB | until it is complete, s | training stands still, s |\n|---|---|---|---|")
    print("\n".join(lines))


def _measure(arguments: argparse.Namespace, output_dir: Path, in_background: str) -> tuple[float, float, int]:
    """Median seconds and stall of the saves, and the size of a checkpoint in bytes."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.processes), "-m"]
    overrides = [*arguments.overrides, f"output_dir={output_dir}", f"checkpoint.async_save={in_background}"]
    command = [sys.executable, "-m", *launcher, "megatron_lmt.train", str(arguments.run_file), *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the training run failed:\n{done.stdout}{done.stderr}")
    saves = [tuple(map(float, found)) for found in SAVED.findall((output_dir / "train.log").read_text(encoding="utf-8"))]
    seconds, stalls = zip(*saves[:-1], strict=True)
    files = read_manifest(committed(output_dir / "checkpoints")[-1])
    return statistics.median(seconds), statistics.median(stalls), sum(file["bytes"] for file in files.values())


if __name__ == "__main__":
    run_command(main)
