"""What one step did: as JSON for programs, as TensorBoard and W&B scalars, and as a line for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import numpy as np

from megatron_lmt.config import LoggingSection
from megatron_lmt.files import write_text_atomically
from megatron_lmt.model.shape import ModelShape

METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
EVALUATION = "evaluation.jsonl"


@dataclass(frozen=True)
class SampleLosses:
    """What the loss of a global batch is made of, the same on all processes.

    `sums` of losses in nats and `counts` of predicted tokens, float64 [samples, 2]: of the target tokens of pairs in the
    second column, of all others in the first.
    """

    sums: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> float:
        """Loss per predicted token over the global batch."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def target_mean(self) -> float | None:
        """Loss per target token of pairs; None where there is none, or it is not finite."""
        return _ratio(float(self.sums[:, 1].sum()), float(self.counts[:, 1].sum()))

    @property
    def per_sample(self) -> np.ndarray:
        """float64 [samples]: loss per predicted token of each; 0 where there is none."""
        return self.sums.sum(axis=1) / np.maximum(self.counts.sum(axis=1), 1)


def training_flops(shape: ModelShape, num_tokens: int, sum_squared_lengths: int) -> int:
    """Floating-point operations of forward and backward, without recomputation.

    Each matrix parameter takes two for each token forward and four backward. Causal attention inside a document of n
    tokens takes 2 · n² · heads · head_dim forward in each layer, half of what it would without the causal mask, and
    twice that backward.
    """
    attention = 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * sum_squared_lengths
    return 6 * shape.num_matmul_parameters * num_tokens + attention


def mean_losses(
    losses: SampleLosses, names: Sequence[str | None], prefix: str = "", order: Sequence[str | None] = ()
) -> dict[str, float | None]:
    """Loss per predicted token of the samples of one name together.

    Args:
        names: of each sample, such as that of its source; None is counted nowhere.
        order: in which the names are returned, all of them at least once; absent: that of the samples.
    Returns:
        `loss/<name>`, and for pairs `target_loss/<name>` over their target tokens; None where it is not finite.
    """
    present = set(names) - {None}
    known = [name for name in dict.fromkeys(order or names) if name in present]
    numbers = np.array([known.index(name) if name is not None else len(known) for name in names])
    sums, counts = (_add_up(values, numbers, len(known)) for values in (losses.sums, losses.counts))
    means = {}
    for name, (other_sum, target_sum), (other_count, target_count) in zip(known, sums, counts, strict=True):
        means[f"{prefix}loss/{name}"] = _ratio(other_sum + target_sum, other_count + target_count)
        if target_count:
            means[f"{prefix}target_loss/{name}"] = _ratio(target_sum, target_count)
    return means


def _add_up(values: np.ndarray, numbers: np.ndarray, size: int) -> list[list[float]]:
    return np.column_stack([np.bincount(numbers, column, size + 1)[:size] for column in values.T]).tolist()


def _ratio(total: float, count: float) -> float | None:
    return total / count if count and math.isfinite(total) else None


class MetricsLog:
    """The metric files of a run directory. A resumed run drops the lines of steps that it will do again."""

    def __init__(self, output_dir: Path, iteration: int, logging: LoggingSection):
        self._train = _open_after(output_dir / METRICS, iteration)
        self._validation = _open_after(output_dir / VALIDATION, iteration)
        self._evaluation = _open_after(output_dir / EVALUATION, iteration)
        self._tensorboard = None
        if logging.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._tensorboard = SummaryWriter(str(output_dir / "tensorboard"), purge_step=iteration + 1)
        self._wandb = _open_wandb(output_dir, logging.wandb_project) if logging.wandb_project else None

    def step(self, metrics: dict) -> None:
        self._write(self._train, metrics)

    def validation(self, metrics: dict) -> None:
        self._write(self._validation, metrics)

    def evaluation(self, metrics: dict) -> None:
        """Of an earlier iteration than the newest of `step`: an evaluation ends when training has gone on."""
        self._write(self._evaluation, metrics, in_order=False)

    def close(self) -> None:
        for file in (self._train, self._validation, self._evaluation):
            file.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    def _write(self, file: TextIO, metrics: dict, in_order: bool = True) -> None:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float)) and name != "iteration"}
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, metrics["iteration"])
        if self._wandb:
            if in_order:
                self._wandb.log(numbers, step=metrics["iteration"])
            else:  # it drops what comes after a later step
                self._wandb.log({**numbers, "evaluation_iteration": metrics["iteration"]})


def _open_wandb(output_dir: Path, project: str):
    """A run of Weights & Biases with this run's resolved configuration; one that is resumed goes on."""
    import wandb  # preflight has seen that it is there

    file = output_dir / "wandb_id.txt"
    if not file.is_file():
        write_text_atomically(file, uuid4().hex)
    config = json.loads((output_dir / "resolved.json").read_text(encoding="utf-8"))["run"]
    id_ = file.read_text(encoding="utf-8")
    return wandb.init(project=project, name=output_dir.name, dir=output_dir, id=id_, resume="allow", config=config)


def _open_after(path: Path, iteration: int) -> TextIO:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    # a killed run may have left half a line at the end
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
    write_text_atomically(path, "".join(kept))
    return open(path, "a", encoding="utf-8")


def console_line(metrics: dict, train_iters: int, seconds_left: float) -> str:
    """One step for a person, in the words of Megatron's log."""
    mfu, loss = metrics["mfu"], metrics["lm_loss"]
    groups = [name for name in metrics if name.startswith("loss/") and name.count("/") == 1]
    parts = [
        f"iteration {metrics['iteration']:>{len(str(train_iters))}}/{train_iters}",
        f"consumed samples: {metrics['consumed_samples']:,}",
        f"consumed tokens: {metrics['consumed_tokens']:,}",
        f"elapsed time per iteration (ms): {metrics['iteration_seconds'] * 1000:.1f}",
        f"tokens/s/GPU: {metrics['tokens_per_second_per_gpu']:,.0f}",
        f"throughput per GPU (TFLOP/s/GPU): {metrics['tflops_per_gpu']:.3g}",
        *([] if mfu is None else [f"MFU: {mfu:.1%}"]),
        f"learning rate: {metrics['learning_rate']:.3E}",
        f"lm loss: {_shown(loss)}",
        *([] if metrics["target_loss"] is None else [f"target loss: {_shown(metrics['target_loss'])}"]),
        *(f"{name}: {_shown(metrics[name])}" for name in groups if len(groups) > 1),
        f"grad norm: {metrics['grad_norm'] if metrics['grad_norm'] is None else format(metrics['grad_norm'], '.3f')}",
        *([f"skipped iterations: {metrics['skipped_iterations']}"] if metrics["skipped_iterations"] else []),
        f"left: {timedelta(seconds=round(seconds_left))}",
    ]
    return " | ".join(parts)


def _shown(loss: float | None) -> str:
    return "not a number" if loss is None else f"{loss:.6E}"
