#!/usr/bin/env bash
# sbatch with the resources of site.sh:  slurm/submit.sh [--chain N] [options of sbatch] cpt.sh RUN.toml [key=value ...]
#
# --chain N submits N jobs of one name; each starts when the one before it has ended, and goes on where that stopped.
# Those that are left when the run is done end at once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=slurm/job.sh
source "$here/job.sh"
# shellcheck source=slurm/site.sh
source "${MEGATRON_LMT_SITE:-$here/site.sh}"

chain=1
options=()
while (($#)) && [[ ! -f $here/$(basename -- "$1") || $1 != *.sh ]]; do
    if [[ $1 == --chain ]]; then
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "--chain ${2:-}: how many jobs?"
        chain=$2
        shift
    else
        options+=("$1")
    fi
    shift
done
(($# >= 2)) || fail "usage: slurm/submit.sh [--chain N] [options of sbatch] cpt.sh RUN.toml [key=value ...]"
command -v sbatch >/dev/null || fail "no sbatch here: submit from a login node of the cluster"
script=$here/$(basename -- "$1")
[[ -f $2 ]] || fail "no such run file: $2"
shift
((chain == 1)) || options+=(--dependency=singleton --job-name="$(basename "$script" .sh)-$(basename "$1" .toml)")
for ((number = 1; number <= chain; number++)); do
    sbatch ${options[@]+"${options[@]}"} "$script" "$@"
done
