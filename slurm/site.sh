# Your cluster, in one place. `slurm/submit.sh` reads it before it calls sbatch, and every job reads it again.
# Another file can be named in MEGATRON_LMT_SITE.
# shellcheck shell=bash disable=SC2034

# For sbatch: any of its SBATCH_ variables. They win over the #SBATCH lines of the scripts; options of sbatch win over both.
# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my-project
# export SBATCH_GPUS_PER_NODE=8
# export SBATCH_TIMELIMIT=24:00:00

# For the jobs: modules to load, and the virtual environment with megatron_lmt (empty: the one you submit from).
MODULES=()
VIRTUAL_ENVIRONMENT=

# Or a container, run by pyxis (srun --container-image): an image or .sqsh file, and SOURCE:TARGET folders to mount.
CONTAINER_IMAGE=
CONTAINER_MOUNTS=

# yes: a job that failed or hung puts itself back in the queue, until job.max_starts_without_progress of the run file.
REQUEUE_AFTER_FAILURE=no
