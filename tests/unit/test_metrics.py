"""Losses by name, the console line, and what a run leaves for programs and people."""

import json
import math

import numpy as np
import pytest

from megatron_lmt.config import LoggingSection
from megatron_lmt.plots import _draw_validation, draw_run
from megatron_lmt.runtime.metrics import METRICS, MetricsLog, SampleLosses, console_line, mean_losses

STEP = {
    "iteration": 3,
    "consumed_samples": 24,
    "consumed_tokens": 1500,
    "lm_loss": 2.5,
    "target_loss": 2.25,
    "grad_norm": 0.5,
    "learning_rate": 1e-5,
    "skipped_iterations": 0,
    "iteration_seconds": 0.5,
    "tokens_per_second_per_gpu": 1000.0,
    "tflops_per_gpu": 445.2,
    "mfu": 0.45,
    "loss/mono": 3.0,
    "loss/en": 2.0,
    "loss/en/en-ky": 2.0,
}


def test_losses_are_means_over_tokens_not_over_samples():
    sums, counts = np.array([[6.0, 0.0], [1.0, 2.0], [8.0, 4.0]]), np.array([[2.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    losses = SampleLosses(sums, counts)
    assert losses.mean == 21 / 11 and losses.target_mean == 6 / 5 and losses.per_sample.tolist() == [3.0, 1.5, 12 / 7]
    found = mean_losses(losses, ["mono", "en", "en"])
    assert found == {"loss/mono": 3.0, "loss/en": 15 / 9, "target_loss/en": 6 / 5}
    assert list(mean_losses(losses, ["mono", "en", "en"], order=["zh", "en", "en", "mono"])) == [*found][1:] + [*found][:1]
    padded = SampleLosses(np.vstack([sums, [[0, 0]]]), np.vstack([counts, [[0, 0]]]))
    assert mean_losses(padded, ["mono", "en", "en", None], "validation_") == {f"validation_{k}": v for k, v in found.items()}
    broken = SampleLosses(np.where(sums == 1, math.nan, sums), counts)
    assert mean_losses(broken, ["mono", "en", "en"]) == {"loss/mono": 3.0, "loss/en": None, "target_loss/en": 6 / 5}


def test_the_console_line_has_what_a_person_looks_for():
    line = console_line(STEP, 100, 3661)
    for part in (
        "iteration   3/100",
        "lm loss: 2.5",
        "target loss: 2.25",
        "loss/mono: 3.0",
        "loss/en: 2.0",
        "tokens/s/GPU: 1,000",
        "MFU: 45.0%",
    ):
        assert part in line
    for part in ("TFLOP/s/GPU): 445", "grad norm: 0.500", "learning rate: 1.000E-05", "left: 1:01:01"):
        assert part in line
    assert "en-ky" not in line and "skipped" not in line
    skipped = console_line({**STEP, "lm_loss": None, "grad_norm": None, "mfu": None, "skipped_iterations": 2}, 100, 0)
    assert "lm loss: not a number" in skipped and "skipped iterations: 2" in skipped and "MFU" not in skipped


@pytest.fixture
def run_dir(tmp_path):
    """A folder with the metrics of five steps, one of them skipped, and two validations."""
    log = MetricsLog(tmp_path, 0, LoggingSection(tensorboard=False))
    for iteration in range(1, 6):
        skipped = {"lm_loss": None, "loss/en": None, "grad_norm": None} if iteration == 3 else {}
        log.step({**STEP, "iteration": iteration, **skipped, "skipped_iterations": int(iteration >= 3)})
        log.validation({"iteration": iteration, "validation_loss/zh": 4.0 / iteration})
    log.close()
    ledger = [{"group": name.split("/")[0], "source": name, "tokens": 10} for name in ("mono/zh", "en/en-ky")]
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    (tmp_path / "resolved.json").write_text(json.dumps({"run": {"seed": 1}}))
    return tmp_path


def test_metrics_are_json_that_any_reader_takes(run_dir):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    steps = [json.loads(line, parse_constant=refuse) for line in (run_dir / METRICS).read_text().splitlines()]
    assert [step["iteration"] for step in steps] == [1, 2, 3, 4, 5] and steps[2]["lm_loss"] is None


def test_a_resumed_run_drops_the_steps_that_it_does_again_and_half_a_line(run_dir):
    for kept in (5, 3):
        with open(run_dir / METRICS, "a") as file:
            file.write('{"iteration": 1, "lm_lo')  # as a killed run may leave it
        log = MetricsLog(run_dir, kept, LoggingSection(tensorboard=False))
        log.step({**STEP, "iteration": kept + 1})
        log.close()
        steps = [json.loads(line)["iteration"] for line in (run_dir / METRICS).read_text().splitlines()]
        assert steps == list(range(1, kept + 2))


def test_pictures_are_drawn_with_skipped_steps_and_without_validation(run_dir):
    draw_run(run_dir)
    with_validation = (run_dir / "loss.png").read_bytes()
    assert with_validation.startswith(b"\x89PNG") and (run_dir / "mixture.png").is_file()
    (run_dir / "validation.jsonl").write_text("")
    draw_run(run_dir)
    assert (run_dir / "loss.png").read_bytes() != with_validation


def test_a_legend_of_60_languages_is_their_mean_and_the_extremes():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    names = [f"l{number:02}" for number in range(60)]
    rows = [{"iteration": i, **{f"validation_loss/{name}": n / i for n, name in enumerate(names)}} for i in (1, 2)]
    rows[1]["validation_loss/l30"] = None
    _draw_validation(axes, rows)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "at the end lowest l00, l01, l02; highest l59, l58, l57",
        "mean of 60",
    ]
    assert axes.lines[-1].get_ydata()[0] == 29.5 and len(axes.lines) == 61


def test_weights_and_biases_gets_the_same_numbers(run_dir, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 1):  # the second time is a resumed run
        log = MetricsLog(run_dir, first, LoggingSection(tensorboard=False, wandb_project="lmt"))
        log.step({**STEP, "iteration": first + 1})
        log.close()
    runs = {folder.name.rpartition("-")[2] for folder in (run_dir / "wandb").glob("offline-run-*")}
    assert runs == {(run_dir / "wandb_id.txt").read_text()}
