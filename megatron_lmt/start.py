"""How a run starts: its folder, and the model with what trains it. All processes call these together."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_lmt.files import write_json_atomically, write_text_atomically
from megatron_lmt.model.hf_folder import copy_companions
from megatron_lmt.model.hf_io import FolderTensors, RandomTensors
from megatron_lmt.model.qwen3 import build_model
from megatron_lmt.model.shape import config_file
from megatron_lmt.model.weights import set_weights
from megatron_lmt.preflight import RESOLVED, ReadyRun, resolved
from megatron_lmt.run_card import Origin
from megatron_lmt.runtime import parallel
from megatron_lmt.runtime.checkpoint import load_checkpoint
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, remove_unfinished
from megatron_lmt.runtime.device import Device
from megatron_lmt.runtime.optimizer import build_optimizer, build_scheduler, wrap_data_parallel
from megatron_lmt.step import ModelChunks, Trainee


def open_output(ready: ReadyRun, origin: Origin) -> None:
    """Write what identifies the run; the first process alone calls it. resolved.json makes the folder this run's."""
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


def build_trainee(ready: ReadyRun, device: Device) -> Trainee:
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
        source = FolderTensors(ready.start_from) if ready.start_from else RandomTensors(ready.shape, run.seed)
        for chunk in chunks:
            set_weights(chunk, ready.shape, source)
    wrapped = wrap_data_parallel(chunks, run, device)
    optimizer = build_optimizer(wrapped, run, bf16)
    return Trainee(wrapped, optimizer, build_scheduler(optimizer, run), device)
