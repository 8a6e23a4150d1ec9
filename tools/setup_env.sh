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

if [[ ! -f $ready || $(<"$ready") != "$requirements" ]]; then
    echo "setting up $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    # the pip of older Pythons searches for many minutes where a newer one needs seconds
    "$venv/bin/pip" install --quiet --disable-pip-version-check "pip==26.2"
    # torch first and alone: pip then takes a CPU build where one is at hand, instead of whatever a dependency asks for
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${TORCH_REQUIREMENT:-torch==2.13.0}"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        --constraint "$repository/tools/constraints.txt" --editable "${repository}[test]"
    echo "$requirements" >"$ready"
fi
# shellcheck disable=SC1091
source "$venv/bin/activate"
