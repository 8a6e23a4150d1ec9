"""BF16 against FP8 on the same run, from the metrics of two short trials: the loss gap, the speed, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

from megatron_lmt.errors import DataError
from megatron_lmt.runtime.metrics import METRICS

LARGEST_GAP = 0.005
"""Of the loss. FP8 training is reported within 0.25 % of bf16 or so; twice that says that something is wrong."""
LEAST_GAIN = 1.1
"""Times faster. Below that FP8 is not worth the narrower numbers."""
WARM_UP = 5
"""Iterations whose speed does not count: kernels are chosen and memory is taken then."""


@dataclass(frozen=True)
class Comparison:
    """`gap` is the mean difference of the losses over the second half of the trials, as a share of BF16's loss; `noise` how
    much that difference scatters from iteration to iteration; `gain` FP8's tokens per second over BF16's, medians.
    """

    iterations: int
    bf16_loss: float
    fp8_loss: float
    gap: float
    noise: float
    bf16_tokens_per_second_per_gpu: float
    fp8_tokens_per_second_per_gpu: float
    gain: float
    fp8_skipped: int

    @property
    def objections(self) -> list[str]:
        """Why FP8 is not recommended for this run; empty if it is."""
        reasons = []
        if self.fp8_skipped:
            reasons.append(f"{self.fp8_skipped} iterations were skipped")
        if abs(self.gap) > LARGEST_GAP:
            reasons.append(f"the loss differs by {self.gap:+.2%}, more than {LARGEST_GAP:.2%}")
        if self.gain < LEAST_GAIN:
            reasons.append(f"it is {self.gain:.2f} times as fast, less than {LEAST_GAIN} times")
        return reasons


def compare(bf16_dir: Path, fp8_dir: Path) -> Comparison:
    """Compare two finished trials by their metrics.jsonl.

    Raises:
        DataError: they did not see the same data, or are shorter than the warm-up.
    """
    bf16, fp8 = _read(bf16_dir), _read(fp8_dir)
    if [step["data_fingerprint"] for step in bf16] != [step["data_fingerprint"] for step in fp8]:
        raise DataError(f"{bf16_dir} and {fp8_dir} did not train on the same data; make both again")
    if len(bf16) < 2 * WARM_UP:
        raise DataError(f"{bf16_dir}: {len(bf16)} iterations are too few to compare; {2 * WARM_UP} is the least")
    pairs = [
        (a["lm_loss"], b["lm_loss"])
        for a, b in zip(bf16[len(bf16) // 2 :], fp8[len(fp8) // 2 :], strict=True)
        if a["lm_loss"] is not None and b["lm_loss"] is not None
    ]
    if not pairs:
        raise DataError(f"{fp8_dir}: no iteration of the second half has a finite loss")
    bf16_loss, fp8_loss = (mean(losses) for losses in zip(*pairs, strict=True))
    gaps = [(b - a) / a for a, b in pairs]
    bf16_speed, fp8_speed = (median(step["tokens_per_second_per_gpu"] for step in run[WARM_UP:]) for run in (bf16, fp8))
    return Comparison(
        iterations=len(bf16),
        bf16_loss=bf16_loss,
        fp8_loss=fp8_loss,
        gap=(fp8_loss - bf16_loss) / bf16_loss,
        noise=mean(abs(gap - mean(gaps)) for gap in gaps),
        bf16_tokens_per_second_per_gpu=bf16_speed,
        fp8_tokens_per_second_per_gpu=fp8_speed,
        gain=fp8_speed / bf16_speed,
        fp8_skipped=fp8[-1]["skipped_iterations"],
    )


def report(comparison: Comparison, parameters: int, recipe: str) -> list[str]:
    """Lines of text for a person."""
    c = comparison
    verdict = "recommended" if not c.objections else "not recommended: " + "; ".join(c.objections)
    return [
        f"{c.iterations} iterations of the same data; losses over the second half, speed after {WARM_UP} iterations",
        "          loss per token  tokens/s/GPU",
        f"bf16      {c.bf16_loss:14.4f}  {c.bf16_tokens_per_second_per_gpu:12,.0f}",
        f"fp8       {c.fp8_loss:14.4f}  {c.fp8_tokens_per_second_per_gpu:12,.0f}",
        f"loss gap {c.gap:+.3%} (from iteration to iteration ±{c.noise:.3%}); {c.gain:.2f} times as fast",
        f"FP8 {recipe} for this model of {parameters / 1e9:.2f} billion parameters: {verdict}",
    ]


def write(comparison: Comparison, file: Path) -> None:
    """The figures as JSON."""
    content = {**asdict(comparison), "objections": comparison.objections}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
