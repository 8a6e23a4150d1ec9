#!/usr/bin/env bash
# Text to the tokens of a run, many jobs side by side:  sbatch --array=0-15 slurm/preprocess.sh RUN.toml TEXT_DIR [options]
#
# Each array task takes every 16th file of TEXT_DIR, with the tokenizer of the run file, to the folder of its sources.
# Options go to tools/preprocess_data.py, such as --append-eod or --on-bad-line quarantine. A task that was killed goes on
# where it was when it is started again (scontrol requeue JOB_TASK).
#SBATCH --job-name=preprocess
#SBATCH --array=0-15
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

set -euo pipefail

# Slurm runs a copy of this script from its spool folder
here=$(dirname "${BASH_SOURCE[0]}")
if [[ ! -f $here/job.sh ]]; then
    [[ $(scontrol show job "$SLURM_JOB_ID") =~ Command=([^[:space:]]+) ]]
    here=$(dirname "${BASH_REMATCH[1]}")
fi
# shellcheck source=slurm/job.sh
source "$here/job.sh"

need_job preprocess.sh "${1:-}"
[[ -d ${2:-} ]] || fail "usage: sbatch slurm/preprocess.sh RUN.toml TEXT_DIR [options]; no such folder: ${2:-none given}"
load_site
run_file=$1 text=$2
shift 2
mapfile -t shown < <(once python -m megatron_lmt.job show "$run_file" tokenizer_type tokenizer_model tokens_dir)
((${#shown[@]} == 3)) || exit 2
say "task ${SLURM_ARRAY_TASK_ID:-0} of ${SLURM_ARRAY_TASK_COUNT:-1} on $(hostname): $text -> ${shown[2]}"
once python "$repository/tools/preprocess_data.py" --input-dir "$text" --output-dir "${shown[2]}" \
    --tokenizer-type "${shown[0]}" --tokenizer-model "${shown[1]}" --workers "${SLURM_CPUS_PER_TASK:-1}" --resume \
    --part "$((${SLURM_ARRAY_TASK_ID:-0} - ${SLURM_ARRAY_TASK_MIN:-0}))/${SLURM_ARRAY_TASK_COUNT:-1}" "$@"
