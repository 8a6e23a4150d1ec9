# Sourced by the commands of the README: makes a virtual environment once, and enters it.
#
#   MEGATRON_LMT_VENV   where it is (default: .venv in the repository)
#   PYTHON              the interpreter to make it with (default: python3; 3.10 to 3.12)
#   TORCH_REQUIREMENT   the torch to install (default: the pinned one; on a GPU machine pip takes the CUDA build)
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MEGATRON_LMT_VENV:-$repository/.venv}
ready=$venv/.megatron_lmt_ready
requirements=$(cat "$repository/setup.py" "$repository/tools/constraints.txt" | cksum)

# torch first and alone: pip then takes a CPU build where one is at hand, instead of whatever a dependency asks for; and a
# pip of today, because those of older Pythons search for many minutes
make_environment() {
    local install=("$venv/bin/pip" install --quiet --disable-pip-version-check)
    "${PYTHON:-python3}" -m venv "$venv" &&
        "${install[@]}" "pip==26.2" &&
        "${install[@]}" "${TORCH_REQUIREMENT:-torch==2.13.0}" &&
        "${install[@]}" --constraint "$repository/tools/constraints.txt" --editable "${repository}[clean,eval,fast,test]" &&
        echo "$requirements" >"$ready"
}

if [[ ! -f $ready || $(<"$ready") != "$requirements" ]]; then
    echo "setting up $venv"
    if ! make_environment; then
        echo "setting up $venv failed, see the messages above" >&2
        exit 1
    fi
fi
# shellcheck disable=SC1091
source "$venv/bin/activate"
