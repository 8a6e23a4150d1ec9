"""What a step contained: its samples drawn again from the run file, before, during or after the run.

The order is a pure function of the run file, so nothing needs to be recorded. The fingerprint tells whether the result
is what the run saw: it is compared with metrics.jsonl where the run has come that far.

Cost: samples are skipped at tens of thousands a second, without reading tokens, from the newest checkpoint of the run
before the step, or else from the start. Neither torch nor a process group is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_lmt.data.mixture import Mixture, Sample
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.preflight import ReadyRun
from megatron_lmt.progress import progress
from megatron_lmt.runtime.checkpoint_folder import committed, read_run_state
from megatron_lmt.runtime.metrics import METRICS


@dataclass(frozen=True)
class ReplayedStep:
    """The samples of one step, in the order of the global batch.

    `first_sample` is the number of the first of them over the whole run, from 0; `fingerprint` the mixture's after the
    step; `confirmed` whether metrics.jsonl has the same (if it has none of this step, there is nothing to compare).
    """

    iteration: int
    first_sample: int
    samples: list[Sample]
    fingerprint: str
    confirmed: bool


def step_of_sample(ready: ReadyRun, number: int) -> int:
    """The iteration, from 1, that trains on this sample, counted from 0 over the whole run.

    Raises:
        ConfigError: the run has no such sample.
    """
    batch, iterations = ready.run.train.global_batch_size, ready.run.train_iters
    if not 0 <= number < iterations * batch:
        raise ConfigError(f"sample {number}: the run has samples 0 to {iterations * batch - 1}")
    return number // batch + 1


def replay_step(ready: ReadyRun, iteration: int) -> ReplayedStep:
    """Draw the samples of one step (from 1) again.

    Raises:
        ConfigError: the run has no such step.
        DataError: the run trained on other samples in this step.
    """
    run, batch = ready.run, ready.run.train.global_batch_size
    if not 1 <= iteration <= run.train_iters:
        raise ConfigError(f"step {iteration}: the run has steps 1 to {run.train_iters}")
    mixture = Mixture(ready.plan, ready.readers, run.seed, run.data.seq_length, run.data.packing)
    _start_late(mixture, run.output_dir / "checkpoints", iteration)
    first_sample = (iteration - 1) * batch
    _skip(mixture, first_sample - mixture.consumed_samples)
    samples = [mixture.next_sample() for _ in range(batch)]
    recorded = _recorded_fingerprint(run.output_dir / METRICS, iteration)
    if recorded not in (None, mixture.fingerprint):
        raise DataError(
            f"step {iteration}: drawn again, the data fingerprint after it is {mixture.fingerprint}, but "
            f"{run.output_dir / METRICS} has {recorded}: the token files or megatron_lmt are not what the run was made "
            "with; bring those back to see what it contained"
        )
    return ReplayedStep(iteration, first_sample, samples, mixture.fingerprint, recorded is not None)


def _start_late(mixture: Mixture, checkpoints: Path, iteration: int) -> None:
    """Put the mixture where the newest checkpoint before the step left it, if there is one."""
    for folder in reversed(committed(checkpoints)):
        state = read_run_state(folder)
        if state["iteration"] < iteration:
            mixture.load_state_dict(state["data"])
            return


def _skip(mixture: Mixture, samples: int) -> None:
    with progress(samples, "skipping samples", unit="", delay=1) as bar:
        for _ in range(samples):
            mixture.next_sample()
            bar.update(1)


def _recorded_fingerprint(metrics: Path, iteration: int) -> str | None:
    if not metrics.is_file():
        return None
    with open(metrics, encoding="utf-8") as lines:
        records = (json.loads(line) for line in lines)
        return next((record["data_fingerprint"] for record in records if record["iteration"] == iteration), None)
