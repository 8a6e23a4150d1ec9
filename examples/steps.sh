# Sourced by the examples: environment, and steps that are not repeated when the script is started again.
# shellcheck shell=bash

export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/setup_env.sh"

# open_work FOLDER   enters the folder of this run, made where it is not there; $here is the example's own folder
open_work() {
    work=$(realpath -m "$1")
    mkdir -p "$work"
    cd "$work" || exit
    # shellcheck disable=SC2154  # the script that sources this sets it
    cp "$here/config.json" "$work/"
    began=$SECONDS
}

# close_work TEXT   says how long all took, and TEXT
close_work() {
    echo
    echo "the whole run took $((SECONDS - began)) s (steps done before are not counted); $1"
}

# train NAME   trains NAME.toml on two processes; its inputs are relative to the work folder. A run that was only stopped is
# not a finished step
train() {
    torchrun --standalone --nproc-per-node 2 -m megatron_lmt.train "$here/$1.toml" root="$work"
    [[ -f $1/DONE ]]
}

# step NAME OUTPUT COMMAND...   runs the command unless it finished before; what a broken attempt left at OUTPUT
# (a path in $work, or - for commands that go on by themselves) is deleted first
step() {
    local name=$1 output=$2 done_file=$work/steps/$1
    shift 2
    if [[ -f $done_file ]]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name"
    [[ $output == - ]] || rm -rf "${work:?}/$output"
    local step_began=$SECONDS
    "$@"
    mkdir -p "$work/steps"
    echo "$((SECONDS - step_began)) s" >"$done_file"
    echo "   $name took $((SECONDS - step_began)) s"
}
