#!/usr/bin/env bash
# Makes, once, a virtual environment for COMET alone, and prints its interpreter:  bash tools/setup_comet.sh
#
#   MEGATRON_LMT_COMET_VENV   where it is (default: .venv-comet in the repository)
#   PYTHON                    the interpreter to make it with (default: python3; 3.10 to 3.12)
#   TORCH_REQUIREMENT         the torch to install (default: the pinned one; on a GPU machine pip takes the CUDA build)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${MEGATRON_LMT_COMET_VENV:-$here/../.venv-comet}
ready=$venv/.comet_ready
requirements=$(cksum <"$here/comet_requirements.txt")

if [[ ! -f $ready || $(<"$ready") != "$requirements" ]]; then
    echo "setting up $venv" >&2
    install=("$venv/bin/pip" install --quiet --disable-pip-version-check)
    "${PYTHON:-python3}" -m venv "$venv"
    "${install[@]}" "pip==26.2" >&2
    "${install[@]}" "${TORCH_REQUIREMENT:-torch==2.13.0}" >&2
    "${install[@]}" --requirement "$here/comet_requirements.txt" >&2
    echo "$requirements" >"$ready"
fi
echo "$(cd "$venv" && pwd)/bin/python"
