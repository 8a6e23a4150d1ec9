#!/usr/bin/env bash
# Translate a test set with the exported model of a run, and score it:
#   sbatch slurm/evaluate.sh RUN.toml --test-set DIR --directions ... [options]
#
# The model is hf_model in the run directory (slurm/convert.sh), the results go to evaluation beside it; --model and
# --output-dir name others. Options go to tools/evaluate_mt.py.
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --mem=96G
#SBATCH --time=12:00:00
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

# Slurm runs a copy of this script from its spool folder
here=$(dirname "${BASH_SOURCE[0]}")
if [[ ! -f $here/job.sh ]]; then
    [[ $(scontrol show job "$SLURM_JOB_ID") =~ Command=([^[:space:]]+) ]]
    here=$(dirname "${BASH_REMATCH[1]}")
fi
# shellcheck source=slurm/job.sh
source "$here/job.sh"

need_job evaluate.sh "${1:-}"
load_site
output_dir=$(once python -m megatron_lmt.job show "$1" output_dir)
shift
given=" $* "
defaults=()
[[ $given == *" --model "* ]] || defaults+=(--model "$output_dir/hf_model")
[[ $given == *" --output-dir "* ]] || defaults+=(--output-dir "$output_dir/evaluation")
[[ $given == *" --model "* || -d $output_dir/hf_model ]] ||
    fail "$output_dir/hf_model: no such folder; export the run first: sbatch slurm/convert.sh RUN.toml"
[[ $given == *" --test-set "* ]] || fail "evaluate.sh: --test-set DIR is missing, see tools/evaluate_mt.py --help"
once python "$repository/tools/evaluate_mt.py" "${defaults[@]}" "$@"
