"""The functions that the batch scripts share, without a cluster."""

import os
import subprocess

from tests.conftest import REPOSITORY

# srun shows what it was given, a line for each argument
SRUN = 'srun() { printf "%s\\n" "$@"; }'


def bash(script, **environment):
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {REPOSITORY}/slurm/job.sh; {SRUN}; {script}"],
        env={**os.environ, "SLURM_JOB_ID": "7", **environment},
        capture_output=True,
        text=True,
    )


def site(folder, **settings):
    """A copy of site.sh with other settings."""
    text = (REPOSITORY / "slurm/site.sh").read_text()
    for name, value in settings.items():
        assert f"\n{name}=" in text
        text += f"{name}={value}\n"
    (folder / "site.sh").write_text(text)
    return str(folder / "site.sh")


def test_a_container_is_asked_for_once_it_is_named(tmp_path):
    image = tmp_path / "image.sqsh"
    image.touch()
    named = site(tmp_path, CONTAINER_IMAGE=image, CONTAINER_MOUNTS="/data:/data")
    done = bash(f"cd {tmp_path}; load_site; once python x.py", MEGATRON_LMT_SITE=named)
    assert done.returncode == 0, done.stderr
    options = done.stdout.splitlines()
    assert f"--container-image={image}" in options and options[-2:] == ["python", "x.py"]
    assert f"--container-mounts=/data:/data,{REPOSITORY}:{REPOSITORY},{tmp_path}:{tmp_path}" in options
    image.unlink()
    missing = bash("load_site", MEGATRON_LMT_SITE=named)
    assert missing.returncode == 2 and f"CONTAINER_IMAGE: {image}: no such file" in missing.stderr


def test_modules_are_loaded_and_without_a_container_nothing_is_wrapped(tmp_path):
    named = site(tmp_path, MODULES="(cuda/13 nccl)")
    done = bash('module() { echo "module $*"; }; load_site; once echo plain', MEGATRON_LMT_SITE=named)
    assert done.stdout.splitlines() == ["module load cuda/13 nccl", "plain"]


def test_all_that_is_missing_is_said_at_once(tmp_path):
    done = bash(f"cd {tmp_path}; unset SLURM_JOB_ID; need_job convert.sh nothing.toml")
    assert done.returncode == 2
    assert "convert.sh runs inside a Slurm job" in done.stderr and "no such file: nothing.toml" in done.stderr


def test_a_task_for_each_gpu_or_as_many_as_were_asked_for():
    count = "count_tasks; echo $tasks_per_node $tasks"
    asked = [("h100:8", "", "8 16"), ("4", "", "4 8"), ("8", "2", "2 4"), ("", "", "1 2")]
    for gpus, tasks, found in asked:
        environment = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_PER_NODE": gpus, "SLURM_NTASKS_PER_NODE": tasks}
        assert bash(count, **environment).stdout.strip() == found
