"""Examine a job before it trains: disk, quota, limits, data, versions, network, GPUs. Each line says ok, or what to mend.

On one machine: python tools/doctor.py RUN.toml. On all nodes of a job: sbatch --nodes=8 slurm/doctor.sh RUN.toml
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from megatron_lmt.config import load_run
from megatron_lmt.errors import Problems, run_tool
from megatron_lmt.preflight import check_run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path, help="TOML file of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as output_dir=/scratch/run")
    arguments = parser.parse_intermixed_args()
    world_size = int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else None
    # the run file against its data, on this node: problems are said as the trainer would
    problems, local_rank = Problems(), int(os.environ.get("LOCAL_RANK", 0))
    run = problems.of(load_run, arguments.run_file, arguments.overrides)
    ready = run and problems.of(check_run, run, world_size, None, local_rank)

    import torch.distributed as dist  # takes seconds to import

    from megatron_lmt.doctor.job import diagnose, meet
    from megatron_lmt.runtime.meeting import end_all_if_any

    met = meet()
    if met.fix:
        print(met, flush=True)
        problems.raise_if_any()
        return 1
    end_all_if_any(problems.found)
    lines = diagnose(ready, met)
    dist.destroy_process_group()
    if lines:
        print("\n".join(lines))
    mend = sum(line.startswith("MEND") for line in lines)
    if lines:
        print(f"\n{mend} to mend" if mend else "\nall is well")
    return 1 if mend else 0


if __name__ == "__main__":
    run_tool(main)
