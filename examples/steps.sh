# Sourced by the examples: environment, and steps that are not repeated when the script is started again.
# shellcheck shell=bash

export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# shellcheck source=tools/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/setup_env.sh"

# step NAME OUTPUT COMMAND...   runs the command unless it finished before; what a broken attempt left at OUTPUT
# (a path in $work, or - for commands that go on by themselves) is deleted first
step() {
    # shellcheck disable=SC2154  # $work is set by the script that sources this
    local name=$1 output=$2 done_file=$work/steps/$1
    shift 2
    if [[ -f $done_file ]]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name"
    [[ $output == - ]] || rm -rf "${work:?}/$output"
    local began=$SECONDS
    "$@"
    mkdir -p "$work/steps"
    echo "$((SECONDS - began)) s" >"$done_file"
    echo "   $name took $((SECONDS - began)) s"
}
