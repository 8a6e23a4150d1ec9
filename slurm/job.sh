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

# count_tasks   sets tasks_per_node and tasks: one for each GPU that was asked for, such as "8" or "h100:8"; without GPUs,
# as --ntasks-per-node says
count_tasks() {
    tasks_per_node=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_PER_NODE:-1}}
    tasks_per_node=${tasks_per_node##*:}
    tasks=$((SLURM_JOB_NUM_NODES * tasks_per_node))
}

# run_step COMMAND...   in every task, with torchrun's variables; returns srun's exit code. `step` is srun's process.
run_step() {
    local hosts code=0
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=${hosts%%$'\n'*}
    # below the range that the system hands out to other programs (32768 and up)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
    export MASTER_ADDR MASTER_PORT
    say "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}: $tasks tasks on ${hosts//$'\n'/ }"

    # shellcheck disable=SC2016  # expanded by each task, not here
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$tasks" --ntasks-per-node="$tasks_per_node" \
        --cpus-per-task=$((SLURM_CPUS_ON_NODE / tasks_per_node)) \
        --kill-on-bad-exit=1 --wait=120 --unbuffered "${container_options[@]}" bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        exec "$@"
    ' task "$@" &
    step=$!
    # a trapped signal ends `wait` early, so wait until the step itself is gone
    while kill -0 "$step" 2>/dev/null; do
        code=0
        wait "$step" || code=$?
    done
    return "$code"
}
