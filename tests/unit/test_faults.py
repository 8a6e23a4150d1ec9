"""Which steps are skipped, and whom the log names."""

import json
import math

import numpy as np
import pytest

from megatron_lmt.data.mixture import Sample
from megatron_lmt.data.packing import PIECE
from megatron_lmt.faults import ENOUGH, WINDOW, FaultJudge, name_samples


def judged(losses, loss_spike=2.0):
    judge = FaultJudge(loss_spike)
    for loss in losses:
        judge.record(loss, skipped=judge.fault_of(loss) is not None)
    return judge


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_fault_from_the_first_step_on(loss):
    assert f"the loss is {loss}" == FaultJudge(2.0).fault_of(loss)


def test_a_spike_is_judged_by_the_median_of_recent_losses():
    few, many = judged([3.0] * (ENOUGH - 1)), judged([3.0] * ENOUGH)
    assert few.fault_of(9.0) is None
    assert many.fault_of(5.0) is None and "5.100 is more than train.loss_spike = 2.0 above" in many.fault_of(5.1)
    assert judged([3.0] * ENOUGH, math.inf).fault_of(1e9) is None
    # the median moves with the run, and skipped losses do not move it
    assert judged([8.0] * WINDOW + [3.0] * (WINDOW // 2 + 1)).fault_of(5.1) is not None
    raised = judged([3.0] * ENOUGH + [9.0] * WINDOW)
    assert (raised.skipped, raised.in_a_row) == (WINDOW, WINDOW)


def test_a_resumed_judge_goes_on_as_it_was():
    before = judged([3.0] * ENOUGH + [9.0, 9.0, 3.0, math.nan])
    after = FaultJudge(2.0)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert (after.skipped, after.in_a_row) == (3, 1)
    assert after.fault_of(5.1) == before.fault_of(5.1) is not None


def test_the_worst_samples_come_first_and_long_lists_are_cut():
    samples = [
        Sample(0, np.array([(7, 0, 9), (3, 0, 2), (7, 9, 11)], dtype=PIECE)),
        Sample(1, np.array([(i, 0, 2) for i in range(30)], dtype=PIECE)),
    ]
    lines = name_samples([*samples, samples[0]], np.array([2.0, 5.0, math.nan]), 40, ["mono/zh", "en/en-ky"])
    assert lines[0] == "  sample 42 | mono/zh | loss nan | documents 3, 7"
    assert lines[1].startswith("  sample 41 | en/en-ky | loss 5.000 | documents 0, 1")
    assert lines[1].endswith("19 and 10 more")
    assert lines[2] == "  sample 40 | mono/zh | loss 2.000 | documents 3, 7"
    all_bad = name_samples(samples * 10, np.full(20, math.nan), 0, ["a", "b"])
    assert len(all_bad) == 9 and all_bad[-1] == "  and 12 more samples whose loss is not a number"
