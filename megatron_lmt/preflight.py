"""The run against the files it names and the processes it is given: everything that can be known before work starts.

All problems are reported at once, before a process group exists and before anything is written. Takes under a second for
300 sources; neither megatron-core nor a GPU is needed.

Next on the path of a run: `data/mixture.py` turns the checked sources into the order of samples.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from megatron_lmt.config import ParallelSection, RunConfig
from megatron_lmt.data.indexed import IndexedReader, read_manifest
from megatron_lmt.data.ledger import plan_table
from megatron_lmt.data.sources import open_source
from megatron_lmt.data.stream import SAMPLER_VERSION
from megatron_lmt.data.tokenizer import Tokenizer, load_tokenizer
from megatron_lmt.data.weights import Plan, make_plan, source_prefixes
from megatron_lmt.errors import CheckpointError, ConfigError, MissingExtraError, Problems, with_advice
from megatron_lmt.machine import Machine, machine_problems
from megatron_lmt.model.hf_folder import SafetensorsFolder, is_hf_folder
from megatron_lmt.model.memory import estimate_memory
from megatron_lmt.model.shape import ModelShape, check_parallel, read_shape
from megatron_lmt.runtime.checkpoint_folder import committed, find_checkpoint, read_run_state
from megatron_lmt.runtime.incarnation import check_nobody_trains
from megatron_lmt.runtime.job_folder import JOB_FOLDER, check_starts
from megatron_lmt.runtime.retention import check_output, space_needed
from megatron_lmt.runtime.signals import EXIT_FILE
from megatron_lmt.sft.supervision import check_supervision, supervision_lines

RESOLVED = "resolved.json"
DONE = "DONE"


@dataclass(frozen=True)
class ReadyRun:
    """A run whose inputs were found and fit together.

    `identity` is all that decides the result, without paths and layouts: a run is only resumed with the same.
    `world_size` is the number of processes, or what the layout needs at least where they are not started yet.
    `resume_from` is this run's own newest checkpoint; `start_from` is where other weights come from, a checkpoint or an
    open Hugging Face folder; both are None for random weights.
    """

    run: RunConfig
    shape: ModelShape
    plan: Plan
    readers: dict[str, IndexedReader]
    validation_readers: dict[str, IndexedReader]
    tokenizer: Tokenizer
    identity: dict
    world_size: int
    resume_from: Path | None
    start_from: Path | SafetensorsFolder | None

    @property
    def is_done(self) -> bool:
        return (self.run.output_dir / DONE).is_file()

    @property
    def first_iteration(self) -> int:
        """The next to do, from 1."""
        return read_run_state(self.resume_from)["iteration"] + 1 if self.resume_from else 1

    @cached_property
    def nothing_to_do(self) -> str | None:
        """Why this start has nothing to do, if so; looked at once, since all processes must act alike."""
        output_dir = self.run.output_dir
        if self.is_done:
            return f"{output_dir}: the run has already reached its {self.run.train_iters} iterations"
        if (output_dir / EXIT_FILE).exists():
            return f"{output_dir / EXIT_FILE} is there, so nothing is trained; remove it to go on"
        return None

    def check_start(self) -> None:
        """What only matters to a start that is to train now.

        Raises:
            UserError: another start trains in the same folder, or too many made no progress.
        """
        output_dir = self.run.output_dir
        check_starts(output_dir, self.first_iteration - 1, self.run.job.max_starts_without_progress)
        check_nobody_trains(output_dir)


def check_run(
    run: RunConfig, world_size: int | None, machine: Machine | None = None, rank: int = 0, writes: bool = True
) -> ReadyRun:
    """Check everything; see the module.

    Args:
        world_size: number of processes; None when they are not started yet, as in a dry run.
        machine: that is to train; None when it may be another one than this.
        rank: of this process; the first alone reads documents.
        writes: whether the run is to write, if it is not done; else its folder may be another user's, or full.
    Raises:
        UserError: with one line for each problem.
    """
    problems = Problems()
    shape = problems.of(read_shape, run.path(run.model.hf_config))
    tokenizer = problems.of(load_tokenizer, run.data.tokenizer_type, run.path(run.data.tokenizer_model))
    plan, readers = _check_mixture(problems, run, tokenizer)
    validation = run.validation.sources if run.validation else {}
    validation_readers = _open_all(problems, {name: run.path(p) for name, p in validation.items()}, tokenizer)
    if tokenizer and rank == 0:
        problems.of(check_supervision, {**readers, **validation_readers}, tokenizer, run.data.packing)
    problems.of(check_processes, run, world_size)
    if shape:
        problems.found += check_parallel(shape, *_model_parallel(run.parallel))
        problems.of(_check_lengths, run, shape)
        if tokenizer:
            problems.of(_check_vocabulary, run, shape, tokenizer)
    if writes and not os.path.isfile(run.output_dir / DONE):  # which is silent about folders that it may not look into
        problems.of(check_output, run, shape)
    problems.of(_check_extras, run)
    if run.evaluation:
        problems.of(_check_evaluation, run)
    problems.found += machine_problems(run, shape, machine)
    start_from = problems.of(_open_start, run, shape) if shape else None
    problems.raise_if_any()

    identity = _identity(run, shape, tokenizer, plan)
    resume_from = _find_own_checkpoint(run, identity)
    processes = world_size or run.parallel.model_parallel_size
    return ReadyRun(run, shape, plan, readers, validation_readers, tokenizer, identity, processes, resume_from, start_from)


def check_data(run: RunConfig) -> tuple[Plan, dict[str, IndexedReader]]:
    """Only the mixture: its plan, and its sources opened.

    Raises:
        UserError: with one line for each problem.
    """
    problems = Problems()
    tokenizer = problems.of(load_tokenizer, run.data.tokenizer_type, run.path(run.data.tokenizer_model))
    plan, readers = _check_mixture(problems, run, tokenizer)
    problems.raise_if_any()
    return plan, readers


def _check_mixture(
    problems: Problems, run: RunConfig, tokenizer: Tokenizer | None
) -> tuple[Plan | None, dict[str, IndexedReader]]:
    prefixes = {name: prefix for group in source_prefixes(run).values() for name, prefix in group.items()}
    problems.of(_check_each_file_once, prefixes)
    readers = _open_all(problems, prefixes, tokenizer)
    plan = problems.of(make_plan, run, readers) if len(readers) == len(prefixes) else None
    return plan, readers


def _check_each_file_once(prefixes: dict[str, Path]) -> None:
    names: dict[Path, list[str]] = {}
    for name, prefix in prefixes.items():
        names.setdefault(prefix, []).append(name)
    problems = [
        f"{' and '.join(same)} are all {prefix}: one file is one source" for prefix, same in names.items() if same[1:]
    ]
    if problems:
        raise ConfigError(problems)


def _open_all(problems: Problems, prefixes: dict[str, Path], tokenizer: Tokenizer | None) -> dict[str, IndexedReader]:
    identity = tokenizer.identity() if tokenizer else None
    opened = {name: problems.of(open_source, name, prefix, identity) for name, prefix in prefixes.items()}
    return {name: reader for name, reader in opened.items() if reader}


def _model_parallel(parallel: ParallelSection) -> tuple[int, int, int, int | None, int | None]:
    return (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.virtual_pipeline_model_parallel_size or 1,
        parallel.num_layers_in_first_pipeline_stage,
        parallel.num_layers_in_last_pipeline_stage,
    )


def check_processes(run: RunConfig, world_size: int | None) -> None:
    """
    Args:
        world_size: processes, one for each GPU; None: as many as share one model.
    Raises:
        ConfigError: they cannot be divided into models, or the global batch not among them.
    """
    parallel = run.parallel
    size, pipeline = parallel.model_parallel_size, parallel.pipeline_model_parallel_size
    world_size = world_size or size
    if world_size % size:
        sizes = f"{parallel.tensor_model_parallel_size} × {pipeline} × {parallel.context_parallel_size}"
        raise ConfigError(
            f"parallel: {world_size} processes cannot be divided into groups of tensor_model_parallel_size × "
            f"pipeline_model_parallel_size × context_parallel_size = {sizes}; start a multiple of {size}"
        )
    data_parallel = world_size // size
    micro, total = run.train.micro_batch_size, run.train.global_batch_size
    if total % (micro * data_parallel):
        raise ConfigError(
            f"train.global_batch_size = {total} is not a multiple of micro_batch_size × data-parallel size = "
            f"{micro} × {data_parallel}"
        )
    if parallel.virtual_pipeline_model_parallel_size and total // (micro * data_parallel) % pipeline:
        raise ConfigError(
            f"train.global_batch_size = {total} makes {total // (micro * data_parallel)} micro batches on each of "
            f"{data_parallel} data-parallel ranks; virtual_pipeline_model_parallel_size needs a multiple of "
            f"pipeline_model_parallel_size = {pipeline}"
        )


def _check_lengths(run: RunConfig, shape: ModelShape) -> None:
    tensor, seq_length = run.parallel.tensor_model_parallel_size, run.data.seq_length
    problems = []
    if run.parallel.sequence_parallel and seq_length * run.train.micro_batch_size % tensor:
        problems.append(f"data.seq_length = {seq_length}: sequence_parallel splits it over {tensor} ranks, use a multiple")
    if seq_length > shape.max_position_embeddings:
        problems.append(
            f"data.seq_length = {seq_length} is beyond max_position_embeddings = {shape.max_position_embeddings} "
            f"of {run.model.hf_config}"
        )
    if problems:
        raise ConfigError(problems)


def _check_extras(run: RunConfig) -> None:
    if run.logging.wandb_project and find_spec("wandb") is None:
        raise MissingExtraError("wandb", "wandb", "logging.wandb_project")


def _check_evaluation(run: RunConfig) -> None:
    """Its test set, its directions, and that prompts can be made and outputs scored."""
    from megatron_lmt.eval.score import Scorer
    from megatron_lmt.eval.test_set import TestSet
    from megatron_lmt.sft.prompts import ChatTurn

    directions, _ = TestSet(run.path(run.evaluation.test_set)).directions(run.evaluation.directions)
    Scorer().check({direction.split("-")[1] for direction in directions})
    launcher = run.evaluation.launcher
    if launcher and not shutil.which(launcher[0]):
        raise ConfigError(f"evaluation.launcher: there is no command {launcher[0]!r} here")
    if find_spec("py3langid") is None:
        raise MissingExtraError("py3langid", "eval", "[evaluation]")
    ChatTurn(run.path(run.data.tokenizer_model))


def _check_vocabulary(run: RunConfig, shape: ModelShape, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > shape.vocab_size:
        raise ConfigError(
            f"data.tokenizer_model has {tokenizer.vocab_size} tokens, but vocab_size = {shape.vocab_size} in "
            f"{run.model.hf_config}: the model has no row for the last ones"
        )


def _open_start(run: RunConfig, shape: ModelShape) -> Path | SafetensorsFolder | None:
    if run.model.pretrained_checkpoint is None:
        return None
    path = run.path(run.model.pretrained_checkpoint)
    if not path.exists():
        raise CheckpointError(f"model.pretrained_checkpoint: {path}: no such folder")
    if is_hf_folder(path):
        _check_same_shape(path, read_shape(path, "model.pretrained_checkpoint").to_dict(), shape)
        return SafetensorsFolder(path, shape)
    folder = find_checkpoint(path)
    if run.fp8 and run.fp8.param_gather:
        raise CheckpointError(
            f"model.pretrained_checkpoint: {path} is a checkpoint; with fp8.param_gather its weights would be rounded to "
            "FP8 before the first step: export it with tools/checkpoint/convert.py and start from the Hugging Face folder"
        )
    _check_same_shape(folder, read_run_state(folder)["identity"]["shape"], shape)
    return folder


def _check_same_shape(path: Path, found: dict, shape: ModelShape) -> None:
    # how weights were drawn and how far positions may go say nothing about the tensors
    ignored = ("initializer_range", "max_position_embeddings")
    problems = [
        f"{path} is another model: {field} = {found.get(field)}, but {value} in model.hf_config"
        for field, value in shape.to_dict().items()
        if found.get(field) != value and field not in ignored
    ]
    if problems:
        raise CheckpointError(problems)


def _identity(run: RunConfig, shape: ModelShape, tokenizer: Tokenizer, plan: Plan) -> dict:
    return {
        "seed": run.seed,
        "seq_length": run.data.seq_length,
        "packing": run.data.packing,
        "sampler_version": SAMPLER_VERSION,
        "global_batch_size": run.train.global_batch_size,
        "train_iters": run.train_iters,
        "bf16": run.train.bf16,
        "fp8": run.fp8 and run.fp8.model_dump(mode="json"),
        "optimizer": run.optimizer.model_dump(mode="json"),
        "shape": shape.to_dict(),
        "tokenizer": tokenizer.identity(),
        "phases": {
            f"sample {phase.start_sample}": {
                source.name: {"weight": weight, "xxh128": read_manifest(source.prefix)["xxh128"]}
                for source, weight in zip(plan.sources, phase.weights, strict=True)
                if weight
            }
            for phase in plan.phases
        },
    }


def _find_own_checkpoint(run: RunConfig, identity: dict) -> Path | None:
    """This run's newest checkpoint, if the output folder has one; an error if the folder belongs to something else."""
    output_dir = run.output_dir
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"output_dir = {output_dir} is a file; name an empty or new folder")
    if not output_dir.exists() or all(path.name == JOB_FOLDER for path in output_dir.iterdir()):
        return None
    if not (output_dir / RESOLVED).is_file():
        raise ConfigError(f"output_dir = {output_dir} has files in it that are not of a run; name an empty or new folder")
    resume_from = find_checkpoint(output_dir) if committed(output_dir / "checkpoints") else None
    samples_done = read_run_state(resume_from)["iteration"] * run.train.global_batch_size if resume_from else 0
    before = json.loads((output_dir / RESOLVED).read_text(encoding="utf-8"))["identity"]
    found = differences(*(_until(samples_done, which) for which in (before, identity)))
    if found:
        raise ConfigError(
            with_advice(
                [f"output_dir = {output_dir} holds another run: {difference}" for difference in found],
                "take the values of before, or a new output_dir; model.pretrained_checkpoint may name the old weights",
            )
        )
    return resume_from


def _until(samples_done: int, identity: dict) -> dict:
    """Without the phases that have not begun: those may still be changed, added and dropped."""
    phases = {start: weights for start, weights in identity["phases"].items() if int(start.split()[1]) <= samples_done}
    return {**identity, "phases": phases}


def differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    """Lines "key = value before, value now", through all levels."""
    lines = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) or isinstance(new, dict):
            lines += differences(old or {}, new or {}, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} = {old} before, {new} now")
    return lines


def resolved(ready: ReadyRun) -> dict:
    """The content of resolved.json: the run with all defaults filled in, and what it came to."""
    return {
        "run": ready.run.model_dump(mode="json"),
        "train_iters": ready.run.train_iters,
        "lr_warmup_iters": ready.run.lr_warmup_iters,
        "num_parameters": ready.shape.num_parameters,
        "sources": [{**asdict(source), "prefix": os.fspath(source.prefix)} for source in ready.plan.sources],
        "identity": ready.identity,
    }


def describe(ready: ReadyRun) -> list[str]:
    """The plan of the run, as lines for a person."""
    run, shape = ready.run, ready.shape
    samples = run.train_iters * run.train.global_batch_size
    start = ready.resume_from or run.model.pretrained_checkpoint or f"random weights, seed {run.seed}"
    return [
        f"model: {shape.architecture}, {shape.num_parameters:,} parameters, {shape.num_hidden_layers} layers, "
        f"vocabulary {shape.vocab_size:,}; start from: {start}",
        f"training: {run.train_iters:,} iterations of {run.train.global_batch_size} samples of {run.data.seq_length} "
        f"positions; at most {samples * run.data.seq_length:,} tokens; warm-up {run.lr_warmup_iters} iterations",
        f"memory of each of {ready.world_size} GPUs, estimated: {estimate_memory(run, shape, ready.world_size)}",
        f"output: {run.output_dir}; {space_needed(run, shape)}",
        "",
        *plan_table(ready.plan, ready.readers, samples),
        *supervision_lines(ready.readers, ready.tokenizer, run.data.seq_length),
    ]
