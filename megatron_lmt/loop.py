"""The training loop: steps, validation, checkpoints and the record of what happened, from a checked run to DONE.

Next on the path: `step.py`, one optimizer step.
"""

from __future__ import annotations

import math
import time
from importlib.metadata import version
from logging import Logger
from pathlib import Path

import torch.distributed as dist

from megatron_lmt.data.loader import GlobalBatch, global_batches
from megatron_lmt.data.mixture import Mixture
from megatron_lmt.data.targets import target_markers
from megatron_lmt.errors import UserError
from megatron_lmt.faults import FaultJudge
from megatron_lmt.files import write_text_atomically
from megatron_lmt.log import open_log
from megatron_lmt.preflight import DONE, ReadyRun, describe
from megatron_lmt.resume_check import ResumeCheck
from megatron_lmt.run_card import Origin, start_card
from megatron_lmt.run_report import RunReport, Step
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.attendance import Attendance, attend
from megatron_lmt.runtime.checkpoint import load_checkpoint
from megatron_lmt.runtime.checkpoint_folder import (
    HF_FOLDER,
    iteration_folder,
    iteration_of,
    read_run_state,
    without_marker,
)
from megatron_lmt.runtime.checkpoint_manifest import COMMIT_MARKER
from megatron_lmt.runtime.checkpoint_readback import verify_saved
from megatron_lmt.runtime.checkpoint_saver import CheckpointSaver, close_saving, prepare_saving
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.meeting import Meeting, join
from megatron_lmt.runtime.retention import Deletions
from megatron_lmt.runtime.signals import EXIT_FILE, Requests
from megatron_lmt.start import build_trainee, open_output
from megatron_lmt.step import batch_shape
from megatron_lmt.validate import validation_losses


def train(ready: ReadyRun, device: Device, origin: Origin, meeting: Meeting | None) -> None:
    """Train until the budget is spent or a stop signal arrives. All processes call it together.

    Args:
        meeting: at which they found nothing wrong; None for a process that is alone.
    Raises:
        UserError: too many iterations in a row had a loss that is not a number, or a spike.
    """
    requests = Requests()
    prepare_saving()
    run, meeting = ready.run, meeting or join()
    parallel.open_process_groups(run.parallel, device, run.seed, meeting, run.job.longest_hang_seconds)
    with attend(run.output_dir, ready.first_iteration - 1, run.job, requests) as attendance:
        if dist.get_rank() == 0:
            open_output(ready, origin)
            start_card(ready, origin, dist.get_world_size(), device.name)
        dist.barrier()
        log = open_log(dist.get_rank(), run.output_dir / "train.log")
        if dist.get_rank() == 0:  # it reads token files
            for line in describe(ready):
                log.info(line)
        begin_again = _Loop(ready, device, log, origin, attendance).run(requests)
    meeting.wait_for_first()  # it may still have waited for evaluations and exports, longer than a collective call may take
    dist.barrier()  # from here on the run directory is free
    parallel.close_process_groups()
    if begin_again:
        close_saving()
        parallel.become_a_fresh_process()


class _Loop:
    """One process's share of a run in progress."""

    def __init__(self, ready: ReadyRun, device: Device, log: Logger, origin: Origin, attendance: Attendance):
        self.ready, self.run_config, self.device, self.log = ready, ready.run, device, log
        self.attendance = attendance
        data = self.run_config.data
        self.mixture = Mixture(ready.plan, ready.readers, self.run_config.seed, data.seq_length, data.packing)
        self.batch_shape = batch_shape(self.run_config)
        checkpoint = self.run_config.checkpoint
        in_background = device.is_gpu and not checkpoint.verify_after_save
        if checkpoint.async_save is not None:
            in_background = checkpoint.async_save
        self.saver = CheckpointSaver(in_background, attendance.check_may_write)
        self.deletions = Deletions(log)
        self.trainee = build_trainee(ready, device)
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
        self.report = RunReport(ready, device, log, origin, self.first_iteration)
        self.data_state = self.mixture.state_dict()

    def _resume(self, folder: Path) -> None:
        state = read_run_state(folder)
        self.attendance.enter_between_steps(f"loading {folder}")
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
        names = [source.name for source in self.ready.plan.sources]
        readers = [self.ready.readers[name] for name in names]
        batches = global_batches(self.mixture, readers, self.batch_shape, target_markers(names, self.ready.tokenizer))
        for iteration in range(self.first_iteration, last + 1):
            self.attendance.enter(f"iteration {iteration}: data")
            step, stopping, saving = self._step(iteration, next(batches), requests)
            saving = saving and not self.resume_check.forbids_saving(iteration)  # SAVE stays, and is seen again then
            record = self.report.step(step, self.saver.take_stall_seconds())
            self._end_after_too_many_faults(step)
            for line in self.resume_check.step(record):
                self.log.info(line)
            if run.validation and (iteration % run.validation.eval_interval == 0 or iteration == last):
                self._validate(iteration)
            self._commit_save(wait=False)
            self.report.collect()
            begin_again = self.resume_check.wants_fresh_process(iteration) and not stopping
            if begin_again:
                self._commit_save(wait=True)
                self.report.stop(ledger=None)
                self.log.info(f"resume check: a fresh process takes the steps up to iteration {iteration} again")
                break
            if self._is_save_due(iteration) or iteration == last or stopping or saving:
                self._save(iteration)
                self._commit_save(wait=iteration == last or stopping or saving)
            if saving:
                requests.saved()
            if stopping and iteration < last:
                self._stop(iteration, requests)
                break
        else:
            self.report.finish(self.mixture.ledger(self.data_state), self.attendance.enter_between_steps)
            if dist.get_rank() == 0:
                write_text_atomically(run.output_dir / DONE, f"{last} iterations\n")
        self.attendance.enter_between_steps("deleting old checkpoints")
        self.deletions.wait()
        self.report.close()
        batches.close()
        return begin_again

    def _step(self, iteration: int, batch: GlobalBatch, requests: Requests) -> tuple[Step, bool, bool]:
        """One optimizer step; also returns whether to stop after it, and whether to save."""
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
        step = Step(iteration, batch, losses, learning_rate, grad_norm, seconds, fault, self.faults.skipped)
        return step, stops > 0, saves > 0

    def _end_after_too_many_faults(self, step: Step) -> None:
        """
        Raises:
            UserError: `max_skipped_iterations` in a row.
        """
        most = self.run_config.train.max_skipped_iterations
        if step.fault and self.faults.in_a_row >= most:
            self._commit_save(wait=True)  # the checkpoint that is being written is as good as any
            raise UserError(
                f"iteration {step.iteration}: {most} iterations in a row were skipped (train.max_skipped_iterations), "
                f"because {step.fault}; nothing was saved after the last checkpoint. Lower optimizer.lr, or look at the "
                "samples above"
            )

    def _stop(self, iteration: int, requests: Requests) -> None:
        self.attendance.stopped(iteration)
        reason = f"the file {EXIT_FILE}" if requests.exit_file else "a signal"
        self.log.info(f"stopped by {reason} after iteration {iteration}; the same command goes on from here")
        self.report.stop(self.mixture.ledger(self.data_state))

    def _validate(self, iteration: int) -> None:
        self.attendance.enter(f"validation at iteration {iteration}")
        readers, eval_samples = self.ready.validation_readers, self.run_config.validation.eval_samples
        markers = target_markers(list(readers), self.ready.tokenizer)
        losses = validation_losses(self.trainee, readers, markers, self.batch_shape, eval_samples)
        self.report.validation(iteration, losses)

    def _is_save_due(self, iteration: int) -> bool:
        if self.resume_check.forbids_saving(iteration):
            return False
        return iteration % self.run_config.checkpoint.save_interval == 0 or self.resume_check.saves_after(iteration)

    def _save(self, iteration: int) -> None:
        run = self.run_config
        self._commit_save(wait=True)
        self.attendance.enter_between_steps(f"checkpoint of iteration {iteration}")
        self.deletions.wait()
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
        if not self.saver.is_writing:
            return
        self.attendance.enter_between_steps("completing the last checkpoint")
        saved = self.saver.finish(wait)
        if not saved:
            return
        run, folder = self.run_config, saved.folder
        if run.checkpoint.verify_after_save:
            self.attendance.enter_between_steps(f"reading {folder} back")
            verify_saved(folder, self.trainee.bare_model, self.trainee.optimizer)
            self.log.info(f"read {folder} back: every tensor is as in memory")
        if dist.get_rank() == 0:
            write_text_atomically(run.output_dir / "latest_checkpointed_iteration.txt", f"{iteration_of(folder)}\n")
            self.report.committed(folder)
            self.deletions.delete_superfluous(folder.parent, run.checkpoint)
        self.log.info(f"saved {folder} in {saved.seconds:.1f} s; training stood still for {saved.stall_seconds:.1f} s of it")
