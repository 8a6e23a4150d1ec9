#!/usr/bin/env bash
# Supervised fine-tuning:  sbatch [--nodes=N] slurm/sft.sh RUN.toml [key=value ...]
#
# The same life as cpt.sh, shorter; see there and docs/slurm.md.
#SBATCH --job-name=sft
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
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
# shellcheck source=slurm/train_job.sh
source "$here/train_job.sh"

if [[ ${1:-} == --local || -z ${SLURM_JOB_ID:-} ]]; then
    [[ ${1:-} != --local ]] || shift
    rehearse "$@"
fi
need_job sft.sh "${1:-}"
load_site
train_job "$@"
