"""A run that has the data, the order and the kind of layout of a real one, and a model that a laptop trains.

Kept: every source, its weight, seed, seq_length and packing, the number of samples and where phases begin, the model's kind
and vocabulary, tensor, pipeline or context parallelism if there is any. Changed: sizes of the model, two processes, a small
batch, random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_lmt.config import RunConfig
from megatron_lmt.model.shape import config_file

PROCESSES = 2
LARGEST_BATCH = 4
"""Samples of one step; the real batch is a multiple of what is taken, so that both meet at the same samples."""
TINY_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
RUN = "run"
"""Name of its run directory."""
NEVER = 1_000_000_000
ENDLESS = 1_000_000


def write_tiny_run(run: RunConfig, folder: Path) -> tuple[Path, int]:
    """Write its run file and model into `folder`; returns the run file and the samples of one of its steps."""
    parallel = _parallel(run)
    batch = _batch(run, 1 if parallel else PROCESSES)
    ratio = run.train.global_batch_size // batch
    data = run.data.model_dump(mode="json", exclude_none=True)
    for phase in data["phases"]:
        phase["start_iteration"] *= ratio
    tiny = {
        "root": str(run.root),
        "output_dir": str(folder / RUN),
        "seed": run.seed,
        "model": {"hf_config": str(folder / "config.json")},
        "parallel": parallel,
        "data": data,
        "train": {
            "train_iters": _iterations(run, ratio),
            "micro_batch_size": 1,
            "global_batch_size": batch,
            "bf16": False,
        },
        # at full rate from the first step, so that a wrong resume shows in the losses
        "optimizer": {**run.optimizer.model_dump(mode="json"), "lr_warmup_fraction": 0.0},
        "checkpoint": {"save_interval": NEVER, "keep_last": 1, "require_free_disk": False},
        "logging": {"tensorboard": False},
    }
    (folder / "config.json").write_text(json.dumps(_tiny_config(run)), encoding="utf-8")
    run_file = folder / "run.toml"
    run_file.write_text("".join(f"{key} = {toml_value(value)}\n" for key, value in tiny.items()), encoding="utf-8")
    return run_file, batch


def _parallel(run: RunConfig) -> dict[str, Any]:
    if run.parallel.tensor_model_parallel_size > 1:
        return {"tensor_model_parallel_size": PROCESSES, "sequence_parallel": run.parallel.sequence_parallel}
    if run.parallel.pipeline_model_parallel_size > 1:
        return {"pipeline_model_parallel_size": PROCESSES}
    if run.parallel.context_parallel_size > 1:
        return {"context_parallel_size": PROCESSES}
    return {}


def _iterations(run: RunConfig, ratio: int) -> int:
    """As many samples as the real run; more, so that it cannot end by itself, where the length decides no weight."""
    real = run.train_iters * ratio
    return real if any(group.max_epochs for group in run.data.mixture.values()) else max(real, ENDLESS)


def _batch(run: RunConfig, data_parallel: int) -> int:
    """The largest that divides the real one, and that the processes can divide; an odd real batch is taken whole."""
    real = run.train.global_batch_size
    fitting = [n for n in range(1, LARGEST_BATCH + 1) if real % n == 0 and n % data_parallel == 0]
    return max(fitting, default=real * data_parallel)


def _tiny_config(run: RunConfig) -> dict[str, Any]:
    config = json.loads(config_file(run.path(run.model.hf_config)).read_text(encoding="utf-8"))
    grouped = config["num_key_value_heads"] < config["num_attention_heads"]
    tiny = {**config, **TINY_SIZES, "num_key_value_heads": 2 if grouped else 4, "head_dim": 32}
    tiny.pop("layer_types", None)  # one entry for each layer of the real model
    return tiny


def toml_value(value: Any) -> str:
    """A value as TOML writes it on one line; strings are written as in JSON, which TOML reads."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
