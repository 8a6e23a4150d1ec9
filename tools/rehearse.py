"""Rehearse a run on this machine's CPU: the same run file with a tiny model of the same kind, through its whole life.

Ends with what was proved and with an estimate of the real job. Nothing is left behind; the real output_dir is not touched.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from megatron_lmt.config import RunConfig, load_run
from megatron_lmt.errors import ConfigError, Problems, run_tool
from megatron_lmt.estimate import estimate
from megatron_lmt.model.shape import read_shape
from megatron_lmt.preflight import check_data, check_processes
from megatron_lmt.rehearsal.rehearse import rehearse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path, help="TOML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as parallel.tensor_model_parallel_size=4")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="of the real job, for the estimate (default: 8)")
    arguments = parser.parse_intermixed_args()
    run = load_run(arguments.run_file, arguments.overrides)
    problems = Problems()
    shape = problems.of(read_shape, run.path(run.model.hf_config))
    problems.of(check_data, run)
    problems.of(_check_gpus, run, arguments.gpus)
    problems.raise_if_any()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        proved = rehearse(run, Path(folder))
    print("\n".join(["", "proved:", *(f"  {line}" for line in proved)]))
    print("\n".join(["", "the real job:", *(f"  {line}" for line in estimate(run, shape, arguments.gpus).lines)]))


def _check_gpus(run: RunConfig, gpus: int) -> None:
    if gpus < 1:
        raise ConfigError(f"--gpus {gpus}: must be at least 1")
    try:
        check_processes(run, gpus)
    except ConfigError as error:
        raise ConfigError([f"--gpus {gpus}, those of the real job: {problem}" for problem in error.problems]) from None


if __name__ == "__main__":
    run_tool(main)
