#!/usr/bin/env bash
# The newest checkpoint of a run as a Hugging Face model:  sbatch slurm/convert.sh RUN.toml [SAVE_DIR] [options]
#
# SAVE_DIR is by default hf_model in the run directory. Options go to tools/checkpoint/convert.py.
#SBATCH --job-name=convert
#SBATCH --nodes=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=02:00:00
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

need_job convert.sh "${1:-}"
load_site
output_dir=$(once python -m megatron_lmt.job show "$1" output_dir)
shift
save_dir=$output_dir/hf_model
if (($#)) && [[ $1 != --* ]]; then
    save_dir=$1
    shift
fi
[[ -d $output_dir/checkpoints ]] || fail "$output_dir: no checkpoints here; train first"
say "$output_dir -> $save_dir"
once python "$repository/tools/checkpoint/convert.py" --loader mcore --saver hf \
    --load-dir "$output_dir" --save-dir "$save_dir" "$@"
