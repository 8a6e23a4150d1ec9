"""BF16 against FP8: train the first iterations of a run twice on the same data, compare losses and speed, and advise.

Both trials go to <output_dir>-fp8-check; their checkpoints are deleted. What FP8 cannot work with is said before anything
starts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from megatron_lmt.arguments import at_least
from megatron_lmt.config import Fp8Section, RunConfig, load_run
from megatron_lmt.errors import UserError, run_tool
from megatron_lmt.fp8_check import compare, report, write
from megatron_lmt.machine import machine_problems
from megatron_lmt.model.shape import read_shape

BUDGETS = ("train_iters", "train_samples", "train_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_file", type=Path, metavar="RUN.toml", help="TOML file of the run; [fp8] may be absent")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as fp8.recipe=delayed")
    parser.add_argument(
        "--iterations", type=at_least(10), default=60, metavar="N", help="of a trial, at least 10 (default: 60)"
    )
    parser.add_argument("--processes", type=at_least(1), metavar="N", help="one for each GPU (default: all GPUs here)")
    arguments = parser.parse_intermixed_args()
    run = load_run(arguments.run_file, arguments.overrides)
    run = run.model_copy(update={"fp8": run.fp8 or Fp8Section()})
    shape = read_shape(run.path(run.model.hf_config))
    _refuse_what_cannot_work(run, shape)
    work = run.output_dir.with_name(run.output_dir.name + "-fp8-check")
    for name in ("bf16", "fp8"):
        _train(arguments, run, work / name, is_fp8=name == "fp8")
    comparison = compare(work / "bf16", work / "fp8")
    write(comparison, work / "fp8_check.json")
    print("\n".join(["", *report(comparison, shape.num_parameters, run.fp8.recipe), f"figures: {work / 'fp8_check.json'}"]))


def _refuse_what_cannot_work(run: RunConfig, shape) -> None:
    from megatron_lmt.runtime.device import find_machine  # imports torch

    problems = machine_problems(run, shape, find_machine())
    if problems:
        raise UserError(problems)


def _train(arguments: argparse.Namespace, run: RunConfig, output_dir: Path, is_fp8: bool) -> None:
    """One trial as a run of its own, with the run's own schedule cut short."""
    shutil.rmtree(output_dir, ignore_errors=True)
    (budget,) = (name for name in BUDGETS if getattr(run.train, name) is not None)
    unit = {"train_iters": 1, "train_samples": run.train.global_batch_size}
    amount = arguments.iterations * unit.get(budget, run.train.global_batch_size * run.data.seq_length)
    overrides = [
        *(override for override in arguments.overrides if not override.startswith("fp8")),
        f"output_dir={json.dumps(str(output_dir))}",
        f"train.{budget}={amount}",
        f"checkpoint.save_interval={arguments.iterations}",
        "train.bf16=true",
    ]
    if is_fp8:
        settings = run.fp8.model_dump()
        overrides.append("fp8={" + ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items()) + "}")
    processes = str(arguments.processes or "gpu")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m", "megatron_lmt.train"]
    print(f"{output_dir.name}: {arguments.iterations} iterations", flush=True)
    done = subprocess.run([sys.executable, *launcher, str(arguments.run_file), *overrides])
    shutil.rmtree(output_dir / "checkpoints", ignore_errors=True)
    if done.returncode:
        raise UserError(f"{output_dir}: the trial ended with code {done.returncode}; its train.log says why")


if __name__ == "__main__":
    run_tool(main)
