#!/usr/bin/env bash
# Continued pre-training on H100 nodes:  sbatch [--nodes=N] slurm/cpt.sh RUN.toml [key=value ...]
#
# One task per GPU. What is trained, and how, stands in the run file; here are only the resources of the job. Submit from
# the environment that megatron_lmt is installed in. The same command again goes on from the newest checkpoint.
#SBATCH --job-name=cpt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

if [[ $# -lt 1 || ! -f $1 ]]; then
    echo "usage: sbatch slurm/cpt.sh RUN.toml [key=value ...]; no such run file: ${1:-none given}" >&2
    exit 2
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "this script runs inside a Slurm job; on one machine: torchrun --nproc-per-node N -m megatron_lmt.train $1" >&2
    exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
# below the range that the system hands out to other programs (32768 and up)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
export MASTER_ADDR MASTER_PORT
# Megatron's order of communication and computation relies on one hardware queue
export CUDA_DEVICE_MAX_CONNECTIONS=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# shellcheck disable=SC2016  # expanded by each task, not here
srun --kill-on-bad-exit=1 --wait=60 --unbuffered bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python -m megatron_lmt.train "$@"
' task "$@" &
step=$!

# before the time limit: the trainer saves a checkpoint and ends
trap 'kill -USR1 $step' USR1

# a trapped signal ends `wait` early, so wait until the step itself is gone
code=0
while kill -0 "$step" 2>/dev/null; do
    code=0
    wait "$step" || code=$?
done
exit "$code"
