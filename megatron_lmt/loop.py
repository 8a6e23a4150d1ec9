"""The training loop: steps, validation, checkpoints and the record of what happened, from a checked run to DONE.

Next on the path: `step.py`, one optimizer step.
"""

from __future__ import annotations

import math
import shutil
import time
from importlib.metadata import version
from logging import Logger
from pathlib import Path

import torch.distributed as dist

from megatron_lmt.data.ledger import consumed_table
from megatron_lmt.data.loader import GlobalBatch, global_batches
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.data.targets import target_markers
from megatron_lmt.degeneration import LEAST_LOSS_RISE, DegenerationWatch, degeneration_record, validation_scores
from megatron_lmt.errors import UserError
from megatron_lmt.exports import Exports
from megatron_lmt.faults import FaultJudge, name_samples
from megatron_lmt.files import write_json_atomically, write_text_atomically
from megatron_lmt.log import open_log
from megatron_lmt.model.hf_io import RandomTensors, copy_companions
from megatron_lmt.model.qwen3 import build_model
from megatron_lmt.model.shape import config_file
from megatron_lmt.model.weights import set_weights
from megatron_lmt.plots import draw_run
from megatron_lmt.preflight import DONE, RESOLVED, ReadyRun, describe, resolved
from megatron_lmt.resume_check import ResumeCheck
from megatron_lmt.run_card import Origin, compare_results, finish_card, start_card
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.attendance import Attendance, attend
from megatron_lmt.runtime.checkpoint import load_checkpoint
from megatron_lmt.runtime.checkpoint_folder import (
    HF_FOLDER,
    iteration_folder,
    iteration_of,
    read_run_state,
    remove_unfinished,
    without_marker,
)
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER
from megatron_lmt.runtime.checkpoint_readback import verify_saved
from megatron_lmt.runtime.checkpoint_saver import CheckpointSaver, close_saving, prepare_saving
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.metrics import VALIDATION, MetricsLog, SampleLosses, console_line, mean_losses, training_flops
from megatron_lmt.runtime.optimizer import build_optimizer, build_scheduler, wrap_data_parallel
from megatron_lmt.runtime.retention import delete_superfluous
from megatron_lmt.runtime.signals import EXIT_FILE, Requests
from megatron_lmt.snapshots import Snapshots
from megatron_lmt.step import ModelChunks, Trainee, batch_shape
from megatron_lmt.validate import validation_losses


def train(ready: ReadyRun, device: Device, origin: Origin) -> None:
    """Train until the budget is spent or a stop signal arrives. All processes call it together.

    Raises:
        UserError: too many iterations in a row had a loss that is not a number, or a spike.
    """
    requests = Requests()
    prepare_saving()
    parallel.open_process_groups(ready.run.parallel, device, ready.run.seed)
    run = ready.run
    with attend(run.output_dir, ready.first_iteration - 1, run.job.hang_seconds, requests) as attendance:
        if dist.get_rank() == 0:
            _open_output(ready, origin)
            start_card(ready, origin, dist.get_world_size(), device.name)
        dist.barrier()
        log = open_log(dist.get_rank(), run.output_dir / "train.log")
        for line in describe(ready):
            log.info(line)
        begin_again = _Loop(ready, device, log, origin, attendance).run(requests)
    dist.barrier()  # from here on the run directory is free
    parallel.close_process_groups()
    if begin_again:
        close_saving()
        parallel.become_a_fresh_process()


def _open_output(ready: ReadyRun, origin: Origin) -> None:
    """Write what identifies the run. resolved.json comes first: it makes the folder this run's."""
    run = ready.run
    remove_unfinished(run.output_dir / "checkpoints")
    hf_files = run.output_dir / HF_FOLDER
    hf_files.mkdir(parents=True, exist_ok=True)
    write_json_atomically(run.output_dir / RESOLVED, resolved(ready))
    write_text_atomically(run.output_dir / "run.toml", origin.text)
    shutil.copyfile(config_file(run.path(run.model.hf_config)), hf_files / "config.json")
    tokenizer = run.path(run.data.tokenizer_model)
    if tokenizer.is_dir():
        copy_companions(tokenizer, hf_files)
    else:
        shutil.copyfile(tokenizer, hf_files / "tokenizer.model")


class _Loop:
    """One process's share of a run in progress."""

    def __init__(self, ready: ReadyRun, device: Device, log: Logger, origin: Origin, attendance: Attendance):
        self.ready, self.run_config, self.device, self.log, self.origin = ready, ready.run, device, log, origin
        self.attendance = attendance
        self.metrics: MetricsLog | None = None  # of the first process only, as is what goes on beside the training
        self.beside: list[Snapshots | Exports] = []
        data = self.run_config.data
        self.mixture = Mixture(ready.plan, ready.readers, self.run_config.seed, data.seq_length, data.packing)
        self.batch_shape = batch_shape(self.run_config)
        checkpoint = self.run_config.checkpoint
        in_background = device.is_gpu and not checkpoint.verify_after_save
        if checkpoint.async_save is not None:
            in_background = checkpoint.async_save
        self.saver = CheckpointSaver(in_background, attendance.check_may_write)
        self.trainee = _build_trainee(ready, device)
        self.trainee.heartbeat = attendance.alive
        self.faults = FaultJudge(self.run_config.train.loss_spike)
        self.first_iteration = 1
        for folder in without_marker(self.run_config.output_dir / "checkpoints"):
            log.info(f"{folder} is not used: it has no {COMMIT_MARKER}, so it is not a whole checkpoint")
        if ready.resume_from:
            self._resume(ready.resume_from)
        self.resume_check = ResumeCheck(
            self.run_config.output_dir, self.run_config.train.resume_check, self.first_iteration - 1
        )
        self.data_state = self.mixture.state_dict()

    def _resume(self, folder: Path) -> None:
        state = read_run_state(folder)
        self.attendance.enter(f"loading {folder}")
        load_checkpoint(folder, self.trainee.bare_model, self.trainee.optimizer)
        self.trainee.scheduler.step(increment=state["iteration"])
        self.mixture.load_state_dict(state["data"])
        self.faults.load_state_dict(state["faults"])
        self.first_iteration = state["iteration"] + 1
        self.log.info(f"resumed from {folder}, data fingerprint {self.mixture.fingerprint}")

    def run(self, requests: Requests) -> bool:
        """Do the steps that are left, and finish; or return true: a fresh process shall go on (`resume_check.py`)."""
        begin_again = False
        run, last = self.run_config, self.run_config.train_iters
        if dist.get_rank() == 0:
            self.metrics = MetricsLog(run.output_dir, self.first_iteration - 1, run.logging)
            self.validation_watch = DegenerationWatch(run.output_dir / VALIDATION, validation_scores, LEAST_LOSS_RISE)
            if run.evaluation:
                self.beside.append(Snapshots(run, self.metrics, self.log, self.ready.resume_from))
            if run.checkpoint.export_every:
                self.beside.append(Exports(run, self.log, self.ready.resume_from))
        began = time.perf_counter()
        readers = [self.ready.readers[source.name] for source in self.ready.plan.sources]
        markers = target_markers([source.name for source in self.ready.plan.sources], self.ready.tokenizer)
        batches = global_batches(self.mixture, readers, self.batch_shape, markers)
        for iteration in range(self.first_iteration, last + 1):
            self.attendance.enter(f"iteration {iteration}: data")
            record, stopping, saving = self._step(iteration, next(batches), requests)
            self._report(record, (time.perf_counter() - began) / (iteration + 1 - self.first_iteration))
            for line in self.resume_check.step(record):
                self.log.info(line)
            if run.validation and (iteration % run.validation.eval_interval == 0 or iteration == last):
                self._validate(iteration)
            self._commit_save(wait=False)
            for work in self.beside:
                work.collect()
            begin_again = self.resume_check.wants_fresh_process(iteration) and not stopping
            if begin_again:
                self._leave_for_a_fresh_process(iteration)
                break
            if self._is_save_due(iteration) or iteration == last or stopping or saving:
                self._save(iteration)
                self._commit_save(wait=iteration == last or stopping or saving)
            if saving:
                requests.saved()
            if stopping and iteration < last:
                for work in self.beside:
                    work.stop()
                self.attendance.stopped(iteration)
                reason = f"the file {EXIT_FILE}" if requests.exit_file else "a signal"
                self.log.info(f"stopped by {reason} after iteration {iteration}; the same command goes on from here")
                self._finish_card(is_done=False)
                break
        else:
            self._finish()
        if self.metrics:
            self.metrics.close()
        batches.close()
        return begin_again

    def _step(self, iteration: int, batch: GlobalBatch, requests: Requests) -> tuple[dict, bool, bool]:
        """One optimizer step; returns its record, whether to stop after it, and whether to save."""
        began = time.perf_counter()
        self.attendance.enter(f"iteration {iteration}: forward and backward")
        losses, (stops, saves) = self.trainee.compute_gradients(batch.micro_batches, requests.flags)
        self.attendance.enter(f"iteration {iteration}: optimizer step")
        learning_rate, grad_norm = self.trainee.learning_rate, None
        fault = self.faults.fault_of(losses.mean)
        if fault is None:
            grad_norm = self.trainee.apply_gradients()
            fault = None if math.isfinite(grad_norm) else f"the gradient norm is {grad_norm}"
        self.trainee.scheduler.step(increment=1)
        self.faults.record(losses.mean, skipped=fault is not None)
        self.device.synchronize()
        seconds = time.perf_counter() - began
        self.data_state = batch.data_state
        if fault:
            self._report_fault(iteration, fault, batch, losses)
        return self._record(iteration, batch, losses, learning_rate, grad_norm, seconds), stops > 0, saves > 0

    def _record(
        self,
        iteration: int,
        batch: GlobalBatch,
        losses: SampleLosses,
        learning_rate: float,
        grad_norm: float | None,
        seconds: float,
    ) -> dict:
        """What metrics.jsonl says of a step; numbers that are not finite are None there."""
        flops = training_flops(self.ready.shape, batch.num_tokens, batch.sum_squared_lengths)
        tflops = flops / seconds / dist.get_world_size() / 1e12
        peak = self.run_config.logging.peak_tflops or self.device.peak_tflops
        consumed = batch.data_state["sources"].values()
        sources = [self.ready.plan.sources[sample.source] for sample in batch.samples]
        record = {
            "iteration": iteration,
            "consumed_samples": sum(sum(cursor["drawn_in_phases"]) for cursor in consumed),
            "consumed_tokens": sum(cursor["consumed_tokens"] for cursor in consumed),
            "lm_loss": losses.mean if math.isfinite(losses.mean) else None,
            "target_loss": losses.target_mean,
            "grad_norm": grad_norm if math.isfinite(grad_norm or 0) else None,
            "learning_rate": learning_rate,
            "skipped_iterations": self.faults.skipped,
            "iteration_seconds": seconds,
            "tokens_per_second_per_gpu": batch.num_tokens / seconds / dist.get_world_size(),
            "tflops_per_gpu": tflops,
            "mfu": tflops / peak if peak else None,
            "data_fingerprint": batch.data_state["fingerprint"],
            **mean_losses(losses, [source.group for source in sources]),
        }
        if iteration % self.run_config.logging.source_loss_interval == 0:
            record |= mean_losses(losses, [source.name for source in sources])
        return record

    def _report_fault(self, iteration: int, fault: str, batch: GlobalBatch, losses: SampleLosses) -> None:
        """Name the samples of a skipped step, and end the run after too many.

        Raises:
            UserError: `max_skipped_iterations` in a row.
        """
        first_sample = (iteration - 1) * self.run_config.train.global_batch_size
        names = [source.name for source in self.ready.plan.sources]
        self.log.info(f"warning: iteration {iteration} is skipped: {fault}. Its samples, the worst first:")
        for line in name_samples(batch.samples, losses.per_sample, first_sample, names):
            self.log.info(line)
        self.log.info(f"  to see them: python tools/inspect_data.py step {self.origin.path} {iteration}")
        most = self.run_config.train.max_skipped_iterations
        if self.faults.in_a_row >= most:
            raise UserError(
                f"iteration {iteration}: {most} iterations in a row were skipped (train.max_skipped_iterations), because "
                f"{fault}; nothing was saved after the last checkpoint. Lower optimizer.lr, or look at the samples above"
            )

    def _report(self, record: dict, seconds_per_iteration: float) -> None:
        if stall := self.saver.take_stall_seconds():
            record["checkpoint_stall_seconds"] = stall  # between the step before and this one
        if self.metrics:
            self.metrics.step(record)
        iteration, last = record["iteration"], self.run_config.train_iters
        if iteration % self.run_config.logging.log_interval == 0 or iteration in (self.first_iteration, last):
            self.log.info(console_line(record, last, (last - iteration) * seconds_per_iteration))

    def _validate(self, iteration: int) -> None:
        self.attendance.enter(f"validation at iteration {iteration}")
        readers, eval_samples = self.ready.validation_readers, self.run_config.validation.eval_samples
        markers = target_markers(list(readers), self.ready.tokenizer)
        losses = validation_losses(self.trainee, readers, markers, self.batch_shape, eval_samples)
        for name in readers:
            loss = losses[f"validation_loss/{name}"]
            shown = "not a number" if loss is None else f"{loss:.6E} | PPL: {_perplexity(loss):.6E}"
            self.log.info(f"validation at iteration {iteration} | {name} | lm loss: {shown}")
        if self.metrics:
            record = {"iteration": iteration, **losses}
            alerts = self.validation_watch.see(record)
            for alert in alerts:
                self.log.warning(f"validation at iteration {iteration}: {alert}")
            self.metrics.validation({**record, **degeneration_record(alerts)})

    def _is_save_due(self, iteration: int) -> bool:
        if self.resume_check.forbids_saving(iteration):
            return False
        return iteration % self.run_config.checkpoint.save_interval == 0 or self.resume_check.saves_after(iteration)

    def _leave_for_a_fresh_process(self, iteration: int) -> None:
        self._commit_save(wait=True)
        for work in self.beside:
            work.stop()
        self.log.info(f"resume check: a fresh process takes the steps up to iteration {iteration} again")

    def _save(self, iteration: int) -> None:
        run = self.run_config
        self._commit_save(wait=True)
        self.attendance.enter(f"checkpoint of iteration {iteration}")
        self.trainee.gather_parameters()
        run_state = {
            "iteration": iteration,
            "identity": self.ready.identity,
            "data": self.data_state,
            "faults": self.faults.state_dict(),
            "dtype": str(self.trainee.bare_model.config.params_dtype).removeprefix("torch."),
            "versions": {name: version(name) for name in ("megatron_lmt", "megatron-core", "torch")},
        }
        folder = run.output_dir / "checkpoints" / iteration_folder(iteration)
        hf_files = run.output_dir / HF_FOLDER
        self.saver.start(folder, self.trainee.bare_model, self.trainee.optimizer, run_state, hf_files)

    def _commit_save(self, wait: bool) -> None:
        """Commit the checkpoint that is being written, if there is one and it is ready or shall be waited for."""
        saved = self.saver.finish(wait)
        if not saved:
            return
        run, folder = self.run_config, saved.folder
        if run.checkpoint.verify_after_save:
            self.attendance.enter(f"reading {folder} back")
            verify_saved(folder, self.trainee.bare_model, self.trainee.optimizer)
            self.log.info(f"read {folder} back: every tensor is as in memory")
        if dist.get_rank() == 0:
            write_text_atomically(run.output_dir / "latest_checkpointed_iteration.txt", f"{iteration_of(folder)}\n")
            for work in self.beside:
                work.committed(folder)
            delete_superfluous(folder.parent, run.checkpoint)
        self.log.info(f"saved {folder} in {saved.seconds:.1f} s; training stood still for {saved.stall_seconds:.1f} s of it")

    def _finish(self) -> None:
        if dist.get_rank() != 0:
            return
        output_dir = self.run_config.output_dir
        ledger = self.mixture.ledger(self.data_state)
        write_json_atomically(output_dir / "ledger.json", ledger)
        for line in ["", *consumed_table(ledger)]:
            self.log.info(line)
        draw_run(output_dir)
        for work in self.beside:
            work.finish(self.attendance.enter)
        self._finish_card(is_done=True)
        write_text_atomically(output_dir / DONE, f"{self.run_config.train_iters} iterations\n")

    def _finish_card(self, is_done: bool) -> None:
        if dist.get_rank() != 0:
            return
        card = finish_card(self.run_config.output_dir, self.mixture.ledger(self.data_state), is_done)
        if self.origin.card and is_done:
            for line in compare_results(self.origin.card, card):
                self.log.info(line)


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 20))  # as Megatron prints it: beyond this the number says nothing


def _build_trainee(ready: ReadyRun, device: Device) -> Trainee:
    """Model, optimizer and schedule, with the weights the run starts from (a resumed run loads its own later)."""
    run = ready.run
    bf16 = device.bf16_by_default if run.train.bf16 is None else run.train.bf16
    virtual = run.parallel.virtual_pipeline_model_parallel_size
    chunks = ModelChunks()
    for stage in range(virtual) if virtual else [None]:
        ends = parallel.is_first_stage(stage), parallel.is_last_stage(stage)
        chunks.append(build_model(ready.shape, run.parallel, device, bf16, *ends, stage, run.fp8))
    if isinstance(ready.start_from, Path) and not ready.resume_from:
        load_checkpoint(ready.start_from, chunks, None)
    elif not ready.resume_from:
        for chunk in chunks:
            set_weights(chunk, ready.shape, ready.start_from or RandomTensors(ready.shape, run.seed))
    wrapped = wrap_data_parallel(chunks, run, device)
    optimizer = build_optimizer(wrapped, run, bf16)
    return Trainee(wrapped, optimizer, build_scheduler(optimizer, run), device)
