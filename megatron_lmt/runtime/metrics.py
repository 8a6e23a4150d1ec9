"""What one step did: as JSON for programs, as TensorBoard scalars, and as a line for people."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from megatron_lmt.files import write_text_atomically
from megatron_lmt.model.shape import ModelShape

METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"


def training_flops(shape: ModelShape, num_tokens: int, sum_squared_lengths: int) -> int:
    """Floating-point operations of forward and backward, without recomputation.

    Each matrix parameter takes two for each token forward and four backward. Causal attention inside a document of n
    tokens takes 2 · n² · heads · head_dim forward in each layer, half of what it would without the causal mask, and
    twice that backward.
    """
    attention = 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * sum_squared_lengths
    return 6 * shape.num_matmul_parameters * num_tokens + attention


class MetricsLog:
    """The metric files of a run directory. A resumed run drops the lines of steps that it will do again."""

    def __init__(self, output_dir: Path, iteration: int, tensorboard: bool):
        self._train = _open_after(output_dir / METRICS, iteration)
        self._validation = _open_after(output_dir / VALIDATION, iteration)
        self._tensorboard = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._tensorboard = SummaryWriter(str(output_dir / "tensorboard"), purge_step=iteration + 1)

    def step(self, metrics: dict) -> None:
        self._write(self._train, metrics)

    def validation(self, metrics: dict) -> None:
        self._write(self._validation, metrics)

    def close(self) -> None:
        self._train.close()
        self._validation.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _write(self, file: TextIO, metrics: dict) -> None:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        if self._tensorboard:
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and name != "iteration":
                    self._tensorboard.add_scalar(name, value, metrics["iteration"])


def _open_after(path: Path, iteration: int) -> TextIO:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    # a killed run may have left half a line at the end
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
    write_text_atomically(path, "".join(kept))
    return open(path, "a", encoding="utf-8")


def console_line(metrics: dict, train_iters: int, seconds_left: float) -> str:
    """One step for a person, in the words of Megatron's log."""
    parts = (
        f"iteration {metrics['iteration']:>{len(str(train_iters))}}/{train_iters}",
        f"consumed samples: {metrics['consumed_samples']:,}",
        f"consumed tokens: {metrics['consumed_tokens']:,}",
        f"elapsed time per iteration (ms): {metrics['iteration_seconds'] * 1000:.1f}",
        f"tokens/s/GPU: {metrics['tokens_per_second_per_gpu']:,.0f}",
        f"learning rate: {metrics['learning_rate']:.3E}",
        f"lm loss: {metrics['lm_loss']:.6E}",
        f"grad norm: {metrics['grad_norm']:.3f}",
        f"left: {timedelta(seconds=round(seconds_left))}",
    )
    return " | ".join(parts)
