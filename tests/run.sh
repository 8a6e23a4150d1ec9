#!/usr/bin/env bash
# Every test that needs no GPU, set-up included:  bash tests/run.sh [pytest options]
#
# The Slurm tests start a cluster of their own. As root on Debian or Ubuntu its packages are installed here (no service is
# started or configured); elsewhere these tests are skipped and say why.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/setup_env.sh
source "$here/../tools/setup_env.sh"
export OMP_NUM_THREADS=1
if [[ -z ${MEGATRON_LMT_COMET_PYTHON:-} ]]; then # COMET needs a Python of its own; without it its tests are skipped
    MEGATRON_LMT_COMET_PYTHON=$(bash "$here/../tools/setup_comet.sh") || echo "it could not be installed, see above" >&2
    export MEGATRON_LMT_COMET_PYTHON
fi
cd "$repository"
if ! command -v slurmctld >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "installing Slurm for the tests"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        slurmctld slurmd slurm-client munge iproute2 >/dev/null; } || echo "it could not be installed, see above" >&2
fi
ruff check .
ruff format --check .
shellcheck tools/*.sh slurm/*.sh examples/*.sh examples/*/*.sh tests/*.sh .ci/run
# two at a time: most tests wait for processes that they start. In the order of their names, the short ones of tests/unit last:
# pytest-xdist would keep the files with one long test for the end, where one of the two has nothing left to do
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
