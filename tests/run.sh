#!/usr/bin/env bash
# Every test that needs no GPU, set-up included:  bash tests/run.sh [pytest options]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/setup_env.sh
source "$here/../tools/setup_env.sh"
export OMP_NUM_THREADS=1
MEGATRON_LMT_COMET_PYTHON=${MEGATRON_LMT_COMET_PYTHON:-$(bash "$here/../tools/setup_comet.sh")}
export MEGATRON_LMT_COMET_PYTHON
cd "$repository"
ruff check .
ruff format --check .
shellcheck tools/*.sh slurm/*.sh examples/*.sh examples/*/*.sh tests/*.sh .ci/run
python -m pytest "$@"
