"""What a run tells of itself: metrics, console lines, alerts, pictures, the run card; and what goes on beside the training.

Every process has one, and only that of the first writes. Lines are written by `runtime/metrics.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

import torch.distributed as dist

from megatron_lmt.data.ledger import consumed_table
from megatron_lmt.data.loader import GlobalBatch
from megatron_lmt.degeneration import LEAST_LOSS_RISE, DegenerationWatch, degeneration_record, validation_scores
from megatron_lmt.exports import Exports
from megatron_lmt.faults import name_samples
from megatron_lmt.files import write_json_atomically
from megatron_lmt.plots import draw_run
from megatron_lmt.preflight import ReadyRun
from megatron_lmt.run_card import Origin, compare_results, finish_card
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.metrics import VALIDATION, MetricsLog, SampleLosses, console_line, mean_losses, training_flops
from megatron_lmt.snapshots import Snapshots


@dataclass(frozen=True)
class Step:
    """One iteration: its losses, the gradient norm before clipping (None if it was not needed), and how long it took.

    `fault` is why the weights did not change; None when they did. `skipped` counts such iterations of the run.
    """

    iteration: int
    batch: GlobalBatch
    losses: SampleLosses
    learning_rate: float
    grad_norm: float | None
    seconds: float
    fault: str | None
    skipped: int


class RunReport:
    """
    Args:
        origin: for the run card, and to name the run file.
        first_iteration: the first that this process does.
    """

    def __init__(self, ready: ReadyRun, device: Device, log: Logger, origin: Origin, first_iteration: int):
        self._ready, self._run, self._device, self._log, self._origin = ready, ready.run, device, log, origin
        self._first_iteration, self._began = first_iteration, time.perf_counter()
        self._beside: list[Snapshots | Exports] = []
        self._metrics: MetricsLog | None = None
        if dist.get_rank() == 0:
            self._open()

    def _open(self) -> None:
        run = self._run
        self._metrics = MetricsLog(run.output_dir, self._first_iteration - 1, run.logging)
        self._validation_watch = DegenerationWatch(run.output_dir / VALIDATION, validation_scores, LEAST_LOSS_RISE)
        if run.evaluation:
            self._beside.append(Snapshots(run, self._metrics, self._log, self._ready.resume_from))
        if run.checkpoint.export_every:
            self._beside.append(Exports(run, self._log, self._ready.resume_from))

    def step(self, step: Step, stall_seconds: float) -> dict:
        """Record a step; returns the record.

        Args:
            stall_seconds: how long training stood still for checkpoints since the step before.
        """
        record = self._record(step)
        if stall_seconds:
            record["checkpoint_stall_seconds"] = stall_seconds
        if self._metrics:
            self._metrics.step(record)
        first, iteration, last = self._first_iteration, step.iteration, self._run.train_iters
        if iteration % self._run.logging.log_interval == 0 or iteration in (first, last):
            seconds_each = (time.perf_counter() - self._began) / (iteration + 1 - first)
            self._log.info(console_line(record, last, (last - iteration) * seconds_each))
        if step.fault:
            self._name_samples(step)
        return record

    def _record(self, step: Step) -> dict:
        """What metrics.jsonl says of a step; numbers that are not finite are None there."""
        batch, losses, world_size = step.batch, step.losses, dist.get_world_size()
        flops = training_flops(self._ready.shape, batch.num_tokens, batch.sum_squared_lengths)
        tflops = flops / step.seconds / world_size / 1e12
        peak = self._run.logging.peak_tflops or self._device.peak_tflops
        consumed = batch.data_state["sources"].values()
        all_sources = self._ready.plan.sources
        sources = [all_sources[sample.source] for sample in batch.samples]
        record = {
            "iteration": step.iteration,
            "consumed_samples": sum(sum(cursor["drawn_in_phases"]) for cursor in consumed),
            "consumed_tokens": sum(cursor["consumed_tokens"] for cursor in consumed),
            "lm_loss": losses.mean if math.isfinite(losses.mean) else None,
            "target_loss": losses.target_mean,
            "grad_norm": step.grad_norm if math.isfinite(step.grad_norm or 0) else None,
            "learning_rate": step.learning_rate,
            "skipped_iterations": step.skipped,
            "iteration_seconds": step.seconds,
            "tokens_per_second_per_gpu": batch.num_tokens / step.seconds / world_size,
            "tflops_per_gpu": tflops,
            "mfu": tflops / peak if peak else None,
            "data_fingerprint": batch.data_state["fingerprint"],
            **mean_losses(losses, [source.group for source in sources], order=[source.group for source in all_sources]),
        }
        if step.iteration % self._run.logging.source_loss_interval == 0:
            record |= mean_losses(losses, [source.name for source in sources], order=[source.name for source in all_sources])
        return record

    def _name_samples(self, step: Step) -> None:
        first_sample = (step.iteration - 1) * self._run.train.global_batch_size
        names = [source.name for source in self._ready.plan.sources]
        self._log.info(f"warning: iteration {step.iteration} is skipped: {step.fault}. Its samples, the worst first:")
        for line in name_samples(step.batch.samples, step.losses.per_sample, first_sample, names):
            self._log.info(line)
        self._log.info(f"  to see them: python tools/inspect_data.py step {self._origin.path} {step.iteration}")

    def validation(self, iteration: int, losses: dict[str, float | None]) -> None:
        """
        Args:
            losses: of `validation_losses`.
        """
        for name in self._ready.validation_readers:
            loss = losses[f"validation_loss/{name}"]
            shown = "not a number" if loss is None else f"{loss:.6E} | PPL: {_perplexity(loss):.6E}"
            self._log.info(f"validation at iteration {iteration} | {name} | lm loss: {shown}")
        if self._metrics:
            record = {"iteration": iteration, **losses}
            alerts = self._validation_watch.see(record)
            for alert in alerts:
                self._log.warning(f"validation at iteration {iteration}: {alert}")
            self._metrics.validation({**record, **degeneration_record(alerts)})

    def committed(self, checkpoint: Path) -> None:
        """A checkpoint is complete: what is made of it beside the training may begin."""
        for work in self._beside:
            work.committed(checkpoint)

    def collect(self) -> None:
        """Take what is ready beside the training."""
        for work in self._beside:
            work.collect()

    def stop(self, ledger: list[dict] | None) -> None:
        """The run stops before its end. Without a ledger it only changes its processes, and the card waits."""
        for work in self._beside:
            work.stop()
        if ledger and self._metrics:
            finish_card(self._run.output_dir, ledger, is_done=False)

    def finish(self, ledger: list[dict], enter: Callable[[str], None]) -> None:
        """The run is done: tables, pictures, the card; waits for what goes on beside the training.

        Args:
            enter: tells the watchdog what the process is at.
        """
        if not self._metrics:
            return
        output_dir = self._run.output_dir
        write_json_atomically(output_dir / "ledger.json", ledger)
        for line in ["", *consumed_table(ledger)]:
            self._log.info(line)
        draw_run(output_dir)
        for work in self._beside:
            work.finish(enter)
        card = finish_card(output_dir, ledger, is_done=True)
        if self._origin.card:
            for line in compare_results(self._origin.card, card):
                self._log.info(line)

    def close(self) -> None:
        if self._metrics:
            self._metrics.close()


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 20))  # as Megatron prints it: beyond this the number says nothing
