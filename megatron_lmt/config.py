"""The run file: one TOML file describes one run.

Strict: an unknown key, a wrong type or an impossible combination is an error, and all of them are reported at once.
Names are Megatron's, with underscores; units are in the names or written out. Relative paths are taken from `root`,
and `root` itself from the folder of the run file. `key=value` on the command line overrides a key of the file.

Next on the path of a run: `preflight.py` checks the resolved run against the files it names.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_lmt.languages import among, check_languages, directions, languages, split_direction
from megatron_lmt.sft.prompts import TEMPLATES
from megatron_lmt.toml_config import Section, apply_override, as_value_error, check_placeholders, load_toml, validate

PathField = Annotated[Path, Field(strict=False)]
PositiveInt = Annotated[int, Field(gt=0)]


class ModelSection(Section):
    hf_config: PathField
    """The model's shape: a Hugging Face config.json, or the folder that holds it."""
    pretrained_checkpoint: PathField | None = None
    """Weights to start from: a Hugging Face folder or a megatron_lmt checkpoint. Absent: random weights from `seed`."""


class ParallelSection(Section):
    tensor_model_parallel_size: PositiveInt = 1
    sequence_parallel: bool = False
    pipeline_model_parallel_size: PositiveInt = 1
    virtual_pipeline_model_parallel_size: int | None = Field(None, ge=2)
    """Parts of the model on each pipeline rank, which take turns (interleaved schedule). Absent: one."""
    num_layers_in_first_pipeline_stage: PositiveInt | None = None
    num_layers_in_last_pipeline_stage: PositiveInt | None = None
    """Where the layers are not to be divided equally; the other stages share the rest equally."""
    context_parallel_size: PositiveInt = 1
    """Ranks that share the positions of each document."""
    overlap_grad_reduce: bool | None = None
    """Reduce gradients over the data-parallel ranks while the backward pass goes on. Absent: on a GPU."""
    overlap_param_gather: bool | None = None
    """Gather updated parameters while the next forward pass goes on. Absent: on a GPU."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Compute whole layers, or the modules below, a second time in the backward pass and keep less in memory."""
    recompute_method: Literal["uniform", "block"] | None = None
    recompute_num_layers: PositiveInt | None = None
    """With "full": every unit of so many layers (uniform), or only so many layers of each stage (block)."""
    recompute_modules: list[Literal["core_attn", "mlp", "layernorm"]] | None = None
    """With "selective"; absent: core_attn."""

    @property
    def model_parallel_size(self) -> int:
        """Processes that share one copy of the model and one micro batch."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    @model_validator(mode="after")
    def _settings_belong_together(self):
        problems = []
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            problems.append("sequence_parallel = true needs tensor_model_parallel_size > 1: it splits over those ranks")
        if self.pipeline_model_parallel_size == 1:
            problems += [
                f"{key} = {getattr(self, key)} needs pipeline_model_parallel_size > 1"
                for key in (
                    "virtual_pipeline_model_parallel_size",
                    "num_layers_in_first_pipeline_stage",
                    "num_layers_in_last_pipeline_stage",
                )
                if getattr(self, key)
            ]
        if self.overlap_param_gather and self.overlap_grad_reduce is False:
            problems.append("overlap_param_gather = true needs overlap_grad_reduce: it gathers by the same buckets")
        full = self.recompute_granularity == "full"
        if full != bool(self.recompute_method) or full != bool(self.recompute_num_layers):
            problems.append('recompute_granularity = "full" goes with both recompute_method and recompute_num_layers')
        if self.recompute_modules is not None and self.recompute_granularity != "selective":
            problems.append('recompute_modules needs recompute_granularity = "selective"')
        if problems:
            raise ValueError("; ".join(problems))
        return self


class GroupSection(Section):
    """One group of the mixture, such as all monolingual text: one source for each language or direction."""

    weight: float = Field(ge=0, allow_inf_nan=False)
    """Share of this group's samples, relative to the other groups; 0 for a group that comes in with a later phase."""
    path: str
    """Prefix of the token files with `{language}`, `{direction}`, `{source}` or `{target}` in it, or one plain prefix."""
    languages: list[str] | Literal["all"] | None = None
    """One source for each of these codes; `path` contains `{language}`. Beside a group of directions: only those between
    two of these."""
    directions: list[str] | str | None = None
    """One source for each of these: a list such as ["en-ky", "ky-en"], or a group ("en-centric", "zh-x", "all" …)."""
    within: Literal["uniform", "proportional", "temperature", "explicit"] = "uniform"
    """How the group's weight is shared: equally, by tokens, by tokens ** (1 / temperature), or by `weights`."""
    temperature: float | None = Field(None, ge=1, allow_inf_nan=False)
    """With within = "temperature": 1 is proportional, large values approach uniform."""
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    """With within = "explicit": a number for each language or direction."""
    downsample: float = Field(1.0, gt=0, le=1)
    """Strategic Downsampling (LMT): X→en and X→zh count with this factor of their size; en↔zh are exempt."""
    max_epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    """No source is seen more often than this over the whole run. Absent: no limit."""
    on_max_epochs: Literal["error", "redistribute"] = "error"
    """What to do about a source that would be: stop, or give the rest to the others of the group."""

    @model_validator(mode="before")
    @classmethod
    def _directions_between_languages(cls, values):
        group, codes = (values.get("directions"), values.get("languages")) if isinstance(values, dict) else (None, None)
        if isinstance(group, str) and isinstance(codes, list) and all(isinstance(code, str) for code in codes):
            chosen = as_value_error(lambda: among(directions(group), codes))
            return {**values, "directions": chosen, "languages": None}
        return values

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value):
        if value == "all":
            return list(languages())
        as_value_error(check_languages, value or [])
        return value

    @field_validator("directions")
    @classmethod
    def _known_directions(cls, value):
        if isinstance(value, str):
            return as_value_error(directions, value)
        for direction in value or []:
            as_value_error(split_direction, direction)
        return value

    @model_validator(mode="after")
    def _path_fits_members(self):
        if self.languages and self.directions:
            raise ValueError(
                "give languages or directions: only a group of directions, such as all, has languages beside it"
            )
        placeholders = {"language"} if self.languages else {"direction", "source", "target"} if self.directions else set()
        check_placeholders(self.path, required=placeholders, allowed=placeholders)
        return self

    @model_validator(mode="after")
    def _members_are_weighted(self):
        members = self.languages or self.directions or []
        twice = sorted({member for member in members if members.count(member) > 1})
        if twice:
            raise ValueError(f"{twice} are named twice")
        for key, rule in (("temperature", "temperature"), ("weights", "explicit")):
            if (getattr(self, key) is not None) != (self.within == rule):
                raise ValueError(f'{key} and within = "{rule}" belong together; within = "{self.within}" here')
        if self.weights is not None and set(self.weights) != set(members):
            wrong = sorted(set(self.weights) ^ set(members))
            raise ValueError(f"weights must name each language or direction of the group and no other; see {wrong}")
        if self.downsample < 1 and not self.directions:
            raise ValueError(f"downsample = {self.downsample} is for groups with directions")
        return self


class PhaseSection(Section):
    """Other weights from some iteration on. The sources go on where they stand."""

    start_iteration: PositiveInt
    """Iterations done before the phase begins."""
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """The weight of every group of the mixture from then on; 0 drops a group."""


class DataSection(Section):
    tokenizer_type: Literal["HuggingFaceTokenizer", "SentencePieceTokenizer"]
    tokenizer_model: PathField
    seq_length: PositiveInt
    """Positions in one sample; whole documents are packed into it, and attention does not cross them."""
    packing: Literal["documents", "concatenate"] = "documents"
    """Whole documents in each sample, or documents one after the other, cut where a sample is full."""
    mixture: dict[str, GroupSection] = Field(min_length=1)
    phases: list[PhaseSection] = []
    """Changes of the mixture in mid-run, in order."""

    @model_validator(mode="after")
    def _phases_fit_the_mixture(self):
        if not any(group.weight for group in self.mixture.values()):
            raise ValueError("mixture: every group has weight 0, so there is nothing to begin with")
        for phase in self.phases:
            if set(phase.weights) != set(self.mixture):
                raise ValueError(f"phases: give a weight to each of {sorted(self.mixture)}, and to no other group")
            if not any(phase.weights.values()):
                raise ValueError(f"phases: all weights are 0 from iteration {phase.start_iteration} on")
        starts = [phase.start_iteration for phase in self.phases]
        if starts != sorted(set(starts)):
            raise ValueError(f"phases: start_iteration must rise from phase to phase, not {starts}")
        return self


class TrainSection(Section):
    train_iters: PositiveInt | None = None
    train_samples: PositiveInt | None = None
    train_tokens: PositiveInt | None = None
    """The budget, exactly one of the three. One sample is one packed sequence of `seq_length` positions."""
    micro_batch_size: PositiveInt
    global_batch_size: PositiveInt
    """Samples in one optimizer step."""
    bf16: bool | None = None
    """bf16 parameters with fp32 main parameters and gradients; false is fp32. Absent: bf16 on GPU, fp32 on CPU."""

    max_skipped_iterations: PositiveInt = 10
    """Stop after this many skipped iterations in a row. A step is skipped, its data counted as consumed, when the loss or
    the gradient is not finite, or the loss is a spike; the samples at fault are named in the log."""
    loss_spike: float = Field(2.0, gt=0)
    """A loss this many nats per token above the median of the last 100 iterations is a spike; inf: none is."""

    resume_check: PositiveInt | None = None
    """After this iteration: save, go on for three, take them again in fresh processes and compare (`resume_check.py`)."""

    @model_validator(mode="after")
    def _one_budget(self):
        given = [n for n in ("train_iters", "train_samples", "train_tokens") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of train_iters, train_samples, train_tokens; given: {given or 'none'}")
        return self


class OptimizerSection(Section):
    """AdamW and its schedule; the defaults are LMT's (arXiv 2511.07003 v2, table 5), clipping and floor as in its peers."""

    lr: float = Field(2e-5, gt=0)
    min_lr: float = Field(0.0, ge=0)
    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"
    lr_warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of all iterations, rounded up to whole iterations."""
    weight_decay: float = Field(0.01, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    clip_grad: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 does not clip."""

    @model_validator(mode="after")
    def _floor_below_peak(self):
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr = {self.min_lr} is above lr = {self.lr}")
        return self


class Fp8Section(Section):
    """FP8 matrix products of Transformer Engine; all else stays bf16. Without this section there are none."""

    format: Literal["hybrid", "e4m3"] = "hybrid"
    """e4m3 everywhere, or e5m2 for gradients (hybrid)."""
    recipe: Literal["tensorwise", "delayed", "blockwise"] = "tensorwise"
    """How values are scaled: by each tensor's largest value now, by that of recent steps, or block by block."""
    param_gather: bool = False
    """Keep matrices in FP8 and gather them so after each step: half the communication."""
    first_last_layers_bf16: bool = False
    """Leave the first and the last layer in bf16."""

    @model_validator(mode="after")
    def _delayed_scales_all_layers(self):
        if self.first_last_layers_bf16 and self.recipe == "delayed":
            raise ValueError('first_last_layers_bf16 = true is not for recipe = "delayed": take "tensorwise"')
        return self


class ValidationSection(Section):
    eval_interval: PositiveInt
    """Iterations between two validations; there is always one at the end."""
    eval_samples: PositiveInt | None = None
    """At most this many samples of each source. Absent: all of it."""
    sources: dict[str, str] = Field(min_length=1)
    """Name to prefix of token files. Each gets its own loss."""


class EvaluationSection(Section):
    """Translation of a fixed slice of a test set in mid-run, by a process beside the training (`snapshots.py`)."""

    eval_interval: PositiveInt
    """Iterations between two evaluations, a multiple of checkpoint.save_interval; there is always one at the end."""
    test_set: PathField
    """Folder with one file for each language, aligned line by line."""
    directions: list[str] = Field(min_length=1)
    """Such as ["en-ky", "ky-en"], or groups ("en-x", "x-zh", "all-234" …) of which those are taken that the folder has."""
    max_sentences: PositiveInt = 16
    """The first ones of the test set."""
    template: str = "release"
    num_beams: PositiveInt = 1
    max_new_tokens: PositiveInt = 256
    batch_size: PositiveInt = 16
    """Sentences decoded together."""
    device: Literal["cpu", "cuda"] = "cpu"
    """"cuda" takes the GPU that CUDA shows first, which on a training node is in use unless `launcher` gives another."""
    launcher: list[str] = []
    """Words before the command, such as ["srun", "--overlap", "--gpus=1"]. Absent: a process on the first node."""

    @field_validator("template")
    @classmethod
    def _known_template(cls, value):
        if value not in TEMPLATES:
            raise ValueError(f"unknown template {value!r}: one of {', '.join(TEMPLATES)}")
        return value


class CheckpointSection(Section):
    save_interval: PositiveInt
    """Iterations between two checkpoints; there is always one at the end."""
    keep_last: PositiveInt | None = None
    """Keep this many newest checkpoints and delete older ones. Absent: keep all."""
    save_retain_interval: PositiveInt | None = None
    """With keep_last: checkpoints of iterations that are multiples of this are never deleted."""
    export_every: PositiveInt | None = None
    """Iterations between two Hugging Face models in `exports/`, a multiple of save_interval; there is one at the end too.
    A process beside the training makes them. Absent: none."""
    async_save: bool | None = None
    """Write in the background of training. Absent: on GPU only."""
    verify_after_save: bool = False
    """Read each checkpoint back from the disk and compare every tensor with the one in memory, before an older one is
    deleted. Takes about as long as a resume, and memory for the state once more."""
    require_free_disk: bool = True
    """Refuse to start when the checkpoints and exports that the run will keep do not fit on the disk as it is now."""

    @model_validator(mode="after")
    def _what_is_verified_is_waited_for(self):
        if self.verify_after_save and self.async_save:
            raise ValueError("verify_after_save compares with the state in memory: set async_save = false")
        return self

    @model_validator(mode="after")
    def _what_is_exported_is_saved(self):
        if self.export_every and self.export_every % self.save_interval:
            raise ValueError(f"export_every = {self.export_every} is no multiple of save_interval = {self.save_interval}")
        return self

    @model_validator(mode="after")
    def _what_is_retained_is_saved(self):
        if self.save_retain_interval is not None:
            if self.keep_last is None:
                raise ValueError("save_retain_interval is for runs with keep_last: without it nothing is deleted")
            if self.save_retain_interval % self.save_interval:
                raise ValueError(
                    f"save_retain_interval = {self.save_retain_interval} is not a multiple of save_interval = "
                    f"{self.save_interval}: there would be nothing to retain at most of its multiples"
                )
        return self


class JobSection(Section):
    """How a run looks after itself."""

    hang_seconds: float = Field(1200, gt=0, allow_inf_nan=False)
    """After so long without a micro batch, or in an optimizer step, a run hangs: stacks are shown, the job ends."""
    hang_seconds_between_steps: float = Field(3600, gt=0, allow_inf_nan=False)
    """The same for what has no micro batches: loading, writing or reading back a checkpoint, waiting for an export or an
    evaluation."""
    max_starts_without_progress: PositiveInt = 3
    """So many starts in a row may end before a new checkpoint; the next is refused, so that a chain of jobs ends."""

    @property
    def longest_hang_seconds(self) -> float:
        return max(self.hang_seconds, self.hang_seconds_between_steps)


class LoggingSection(Section):
    log_interval: PositiveInt = 1
    """Iterations between two console lines; metrics.jsonl has every iteration."""
    source_loss_interval: PositiveInt = 10
    """Iterations between two records of the training loss of each source; that of each group is in every one."""
    peak_tflops: float | None = Field(None, gt=0, allow_inf_nan=False)
    """bf16 TFLOP/s of one device without sparsity, for MFU. Absent: that of the GPU where it is known (A100 to B200)."""
    tensorboard: bool = True
    wandb_project: str | None = None
    """Project of Weights & Biases to log to as well; needs the extra [wandb]."""


class RunConfig(Section):
    """A whole run. `root` and `output_dir` are absolute after `load_run`."""

    root: PathField = Path(".")
    output_dir: PathField
    seed: int = Field(1234, ge=0)
    model: ModelSection
    parallel: ParallelSection = ParallelSection()
    data: DataSection
    train: TrainSection
    fp8: Fp8Section | None = None
    optimizer: OptimizerSection = OptimizerSection()
    validation: ValidationSection | None = None
    evaluation: EvaluationSection | None = None
    checkpoint: CheckpointSection
    logging: LoggingSection = LoggingSection()
    job: JobSection = JobSection()

    def path(self, path: str | Path) -> Path:
        """An input path of the run file, made absolute."""
        return self.root / path

    @model_validator(mode="after")
    def _evaluated_checkpoints_exist(self):
        interval, saved = self.evaluation and self.evaluation.eval_interval, self.checkpoint.save_interval
        if interval and interval % saved:
            raise ValueError(f"evaluation.eval_interval = {interval} is no multiple of checkpoint.save_interval = {saved}")
        return self

    @model_validator(mode="after")
    def _phases_end_in_the_run(self):
        late = [p.start_iteration for p in self.data.phases if p.start_iteration >= self.train_iters]
        if late:
            raise ValueError(f"data.phases: start_iteration {late} is not before the end, at iteration {self.train_iters}")
        return self

    @model_validator(mode="after")
    def _resume_check_ends_in_the_run(self):
        if self.train.resume_check and self.train.resume_check + 3 > self.train_iters:
            raise ValueError(
                f"train.resume_check = {self.train.resume_check}: it takes three iterations more, and the run ends at "
                f"iteration {self.train_iters}"
            )
        return self

    @property
    def train_iters(self) -> int:
        """Optimizer steps of the whole run: the budget divided by the global batch, rounded up."""
        train, batch = self.train, self.train.global_batch_size
        if train.train_iters is not None:
            return train.train_iters
        samples = train.train_samples or math.ceil(train.train_tokens / self.data.seq_length)
        return math.ceil(samples / batch)

    @property
    def lr_warmup_iters(self) -> int:
        return min(math.ceil(self.optimizer.lr_warmup_fraction * self.train_iters), self.train_iters - 1)


def load_run(run_file: Path, overrides: list[str] = ()) -> RunConfig:
    """Read a run file, apply `key=value` overrides and check everything that needs no other file.

    Args:
        run_file: the TOML file.
        overrides: such as `train.train_iters=20` or `output_dir=/tmp/x`; the value is TOML, or else a bare string.
    Raises:
        ConfigError: with one line for each problem.
    """
    return run_of(load_toml(run_file), overrides, str(run_file), Path(run_file).parent)


def run_of(data: dict[str, Any], overrides: list[str], where: str, folder: Path) -> RunConfig:
    """A run from the content of a run file, or from the `model_dump` of an earlier run.

    Args:
        where: the file, for messages.
        folder: that a relative `root` starts from.
    Raises:
        ConfigError: with one line for each problem.
    """
    for override in overrides:
        apply_override(data, override)
    run = validate(RunConfig, data, where)
    root = (folder.resolve() / run.root).resolve()
    return run.model_copy(update={"root": root, "output_dir": root / run.output_dir})
