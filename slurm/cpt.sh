#!/usr/bin/env bash
# Continued pre-training on H100 nodes:  sbatch [--nodes=N] slurm/cpt.sh RUN.toml [key=value ...]
#
# One task per GPU. What is trained, and how, stands in the run file; here are only the resources of the job, and site.sh
# has those of your cluster. Submit from the environment that megatron_lmt is installed in. The same command again goes on
# from the newest checkpoint. What happens in which case: docs/slurm.md.
#
# Outside of Slurm, or with --local first, the run is rehearsed on this machine's CPU:  slurm/cpt.sh RUN.toml [--gpus N]
#SBATCH --job-name=cpt
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
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
need_job cpt.sh "${1:-}"
load_site
train_job "$@"
