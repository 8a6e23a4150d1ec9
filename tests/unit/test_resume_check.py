"""What the resume self-test calls equal, from the figures of both halves."""

import json

import pytest
import torch.distributed as dist

from megatron_lmt.errors import UserError
from megatron_lmt.resume_check import ResumeCheck
from megatron_lmt.run_card import RESUME_CHECK

BEFORE = {str(iteration): {"lm_loss": 2e-3, "grad_norm": 100.0} for iteration in (6, 7, 8)}


@pytest.fixture(scope="module", autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def second_half(run_dir, before, after):
    """Take iterations 6 to 8 again, the last of them with the figures `after`; returns the lines for the log."""
    (run_dir / RESUME_CHECK).write_text(json.dumps({"saved_after": 5, "before": before}))
    check = ResumeCheck(run_dir, 5, 5)
    for iteration in (6, 7):
        assert check.step({"iteration": iteration, **before[str(iteration)]}) == []
    return check.step({"iteration": 8, **before["8"], **after})


@pytest.mark.parametrize(
    ("after", "how"), [({}, "bit-equal"), ({"grad_norm": 100.05}, "equal to 5.0e-04"), ({"lm_loss": 2.001e-3}, "equal to 5")]
)
def test_what_differs_by_the_order_of_additions_passes(tmp_path, after, how):
    (line,) = second_half(tmp_path, BEFORE, after)
    assert line.startswith(f"resume check passed: iterations 6, 7, 8 are {how}")
    assert json.loads((tmp_path / RESUME_CHECK).read_text())["passed"]


@pytest.mark.parametrize(
    ("after", "difference"),
    [({"grad_norm": 100.2}, "2.0e-03"), ({"lm_loss": 2.01e-3}, "5.0e-03"), ({"lm_loss": None}, "inf")],
)
def test_what_differs_by_more_ends_the_run(tmp_path, after, difference):
    with pytest.raises(UserError, match=f"differ by up to {difference} in a fresh process"):
        second_half(tmp_path, BEFORE, after)
    assert not json.loads((tmp_path / RESUME_CHECK).read_text())["passed"]


def test_a_loss_that_is_not_a_number_both_times_is_the_same(tmp_path):
    second_half(tmp_path, {**BEFORE, "8": {"lm_loss": None, "grad_norm": None}}, {})
    assert json.loads((tmp_path / RESUME_CHECK).read_text())["passed"]
