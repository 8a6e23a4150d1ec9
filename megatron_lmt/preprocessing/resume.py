"""Whether what an earlier run left may be kept, or gone on with: only if recipe and inputs are the same."""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.data.indexed import existing_files, manifest_path, read_manifest
from megatron_lmt.preprocessing.inputs import Input, are_like, state
from megatron_lmt.preprocessing.shards import known_job, shards_folder


def job_of(inputs: list[Input], described: dict) -> dict:
    """What decides the tokens of a source: `described` by manifest.py, and the inputs as they are now."""
    return {**described, "inputs": state(inputs)}


def unasked_shards(prefix: Path) -> list[str]:
    """A problem, if an interrupted run could be gone on with."""
    folder = shards_folder(prefix)
    reason = "an interrupted run left it, or one is at work: add --resume to go on, or delete it to begin anew"
    return [f"{folder}: {reason}"] if folder.exists() else []


def resume_problems(prefix: Path, inputs: list[Input], described: dict) -> list[str]:
    """Why this cannot go on with, or keep, what is there at `prefix`. Contents of inputs are not compared here."""
    if manifest_path(prefix).exists():
        return _differences_of_finished(prefix, inputs, described)
    if not shards_folder(prefix).exists():
        return existing_files(prefix)
    known, job = known_job(prefix), job_of(inputs, described)
    differing = [key for key in job if known and known.get(key) != job[key]]
    fix = "start with the same as then, or delete the folder to begin anew"
    return [f"{shards_folder(prefix)}: of an interrupted run with other {_names(differing)}; {fix}"] if differing else []


def _differences_of_finished(prefix: Path, inputs: list[Input], described: dict) -> list[str]:
    manifest = read_manifest(prefix)
    differing = [key for key in described if key != "versions" and manifest.get(key) != described[key]]
    if not are_like(inputs, manifest["inputs"]):
        differing.append("inputs")
    fix = "delete its files, or give another prefix"
    return [f"{prefix}: finished already, with other {_names(differing)}; {fix}"] if differing else []


def _names(keys: list[str]) -> str:
    return " and ".join(keys)
