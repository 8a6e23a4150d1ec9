#!/usr/bin/env bash
# Examine the nodes before training:  sbatch [--nodes=N] slurm/doctor.sh RUN.toml [key=value ...]
#
# One task per GPU, as in training; the report is the job's log, and its last line says how much is to be mended.
#SBATCH --job-name=doctor
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=00:15:00
#SBATCH --output=%x-%j.log

set -euo pipefail

# Slurm runs a copy of this script from its spool folder
here=$(dirname "${BASH_SOURCE[0]}")
if [[ ! -f $here/job.sh ]]; then
    [[ $(scontrol show job "$SLURM_JOB_ID") =~ Command=([^[:space:]]+) ]]
    here=$(dirname "${BASH_REMATCH[1]}")
fi
# shellcheck source=slurm/job.sh
source "$here/job.sh"

need_job doctor.sh "${1:-}"
load_site
count_tasks
run_step python "$repository/tools/doctor.py" "$@"
