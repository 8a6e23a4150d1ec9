# Sourced by cpt.sh and sft.sh: the life of a training job, from its checks to requeueing itself. See docs/slurm.md.
# shellcheck shell=bash

# train_job RUN.toml [key=value ...]   does not return
train_job() {
    # one task for each GPU that was asked for, such as "8" or "h100:8"; without GPUs, --ntasks-per-node
    local tasks_per_node=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_PER_NODE:-1}} code=0
    tasks_per_node=${tasks_per_node##*:}
    local tasks=$((SLURM_JOB_NUM_NODES * tasks_per_node))
    step='' warned='' terminated=''
    # Slurm sends CONT before these two; a trap for CONT as well makes bash lose one. No $(...) in handlers: bash fails
    # when they run inside another one.
    trap 'warned=yes; [[ -z $step ]] || kill -USR1 "$step"' USR1
    trap 'terminated=yes' TERM

    output_dir=$(once python -m megatron_lmt.job begin "$tasks" "$@") || code=$?
    ((code != 10)) || exit 0 # nothing to do: it has said so
    ((code == 0)) || exit "$code"
    mkdir -p "$output_dir/job"
    log=$output_dir/job/$SLURM_JOB_NAME-$SLURM_JOB_ID.log
    echo "log: $log"
    exec >>"$log" 2>&1
    log_start=$(stat -c %s "$log")
    rm -f "$output_dir/job/stopped"

    if [[ -n $warned ]]; then
        requeue_or_end "the time limit is near"
    fi
    run_step "$tasks" "$tasks_per_node" "$@" || code=$?
    end_job "$code"
}

# run_step TASKS TASKS_PER_NODE RUN.toml ...   one task per GPU; returns srun's exit code
run_step() {
    local tasks=$1 tasks_per_node=$2 hosts code=0
    # shellcheck disable=SC2154  # load_site sets container_options
    local container=("${container_options[@]}")
    shift 2
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=${hosts%%$'\n'*}
    # below the range that the system hands out to other programs (32768 and up)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
    export MASTER_ADDR MASTER_PORT
    say "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}: $tasks tasks on ${hosts//$'\n'/ }"

    # shellcheck disable=SC2016  # expanded by each task, not here
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$tasks" --ntasks-per-node="$tasks_per_node" \
        --cpus-per-task=$((SLURM_CPUS_ON_NODE / tasks_per_node)) \
        --kill-on-bad-exit=1 --wait=120 --unbuffered "${container[@]}" bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        exec python -m megatron_lmt.train "$@"
    ' task "$@" &
    step=$!
    # a trapped signal ends `wait` early, so wait until the step itself is gone
    while kill -0 "$step" 2>/dev/null; do
        code=0
        wait "$step" || code=$?
    done
    return "$code"
}

# end_job CODE   neither 0 nor another code of srun says what happened: the run directory does
end_job() {
    local code=$1 reason='' iteration=''
    [[ ! -f $output_dir/job/stopped ]] || read -r reason iteration <"$output_dir/job/stopped"
    if [[ -f $output_dir/DONE ]]; then
        say "the run is done"
        exit 0
    elif [[ -n $terminated ]]; then
        say "ended from outside (scancel, requeue, time limit)${iteration:+ after saving iteration $iteration}"
        exit 143
    elif [[ $reason == exit ]]; then
        say "ended by the file EXIT after saving iteration $iteration"
        exit 0
    elif [[ $reason == signal ]]; then
        requeue_or_end "stopped by a signal after saving iteration $iteration"
    fi
    once python -m megatron_lmt.job end "$output_dir" "$log" "$log_start"
    say "the run ended with code $code before it was done"
    ((code)) || code=1
    [[ $REQUEUE_AFTER_FAILURE != yes ]] || requeue_or_end "REQUEUE_AFTER_FAILURE=yes"
    exit "$code"
}

# requeue_or_end WHY   Slurm ends this script when it takes the job back
requeue_or_end() {
    say "$1; back to the queue"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 600 &
        wait
        [[ -z $terminated ]] || exit 143
    fi
    say "Slurm did not take the job back; submit it again to go on"
    exit 1
}
