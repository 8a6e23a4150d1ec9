# Sourced by cpt.sh and sft.sh: the life of a training job, from its checks to requeueing itself. See docs/slurm.md.
# shellcheck shell=bash

# train_job RUN.toml [key=value ...]   does not return
# shellcheck disable=SC2154  # tasks and REQUEUE_AFTER_FAILURE come from job.sh and site.sh
train_job() {
    local code=0
    count_tasks
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
    run_step python -m megatron_lmt.train "$@" || code=$?
    end_job "$code"
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

# rehearse RUN.toml [key=value ...] [--gpus N]   the life of the run on this machine, in minutes; does not return
# shellcheck disable=SC2154  # repository comes from job.sh
rehearse() {
    (($#)) || fail "usage: slurm/cpt.sh RUN.toml [key=value ...] [--gpus N]; in the cluster: sbatch slurm/cpt.sh RUN.toml"
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    exec python "$repository/tools/rehearse.py" "$@"
}
