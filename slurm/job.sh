# Sourced by the batch scripts beside it: the site, and a few functions.
# shellcheck shell=bash

slurm_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$slurm_folder")

say() { printf '%(%F %T)T  %s\n' -1 "$*"; }
fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# load_site   modules, virtual environment, variables; container_options for srun
load_site() {
    # shellcheck source=slurm/site.sh
    source "${MEGATRON_LMT_SITE:-$slurm_folder/site.sh}"
    # shellcheck source=slurm/environment.sh
    source "$slurm_folder/environment.sh"
    ((${#MODULES[@]} == 0)) || module load "${MODULES[@]}"
    # shellcheck disable=SC1091
    [[ -z $VIRTUAL_ENVIRONMENT ]] || source "$VIRTUAL_ENVIRONMENT/bin/activate"
    container_options=()
    if [[ -n $CONTAINER_IMAGE ]]; then
        [[ $CONTAINER_IMAGE != *.sqsh || -f $CONTAINER_IMAGE ]] || fail "CONTAINER_IMAGE: $CONTAINER_IMAGE: no such file"
        container_options=(--container-image="$CONTAINER_IMAGE" --container-name="megatron_lmt_$SLURM_JOB_ID"
            --container-mounts="${CONTAINER_MOUNTS:+$CONTAINER_MOUNTS,}$repository:$repository,$PWD:$PWD"
            --no-container-mount-home --container-workdir="$PWD")
    fi
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
}

# once COMMAND...   one process on the first node, in the container if there is one
once() {
    if ((${#container_options[@]})); then
        srun --nodes=1 --ntasks=1 --overlap "${container_options[@]}" "$@"
    else
        "$@"
    fi
}

# need_job SCRIPT [FILE]   ends with a message unless this runs in a job and the file exists
need_job() {
    local problems=()
    [[ -n ${SLURM_JOB_ID:-} ]] || problems+=("$1 runs inside a Slurm job: sbatch slurm/$1 ...")
    [[ -n ${2:-} ]] || problems+=("usage: sbatch slurm/$1 RUN.toml [key=value ...]")
    [[ -z ${2:-} || -f $2 ]] || problems+=("no such file: $2 (seen from $PWD on $(hostname))")
    ((${#problems[@]} == 0)) || fail "${problems[@]}"
}
