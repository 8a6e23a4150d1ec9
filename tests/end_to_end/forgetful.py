"""Started by test_resume_check: the trainer, but a resume loses Adam's first moments, as silently as bugs do."""

from megatron_lmt.runtime.device import open_device

open_device()

import megatron_lmt.loop as loop  # noqa: E402
from megatron_lmt.errors import run_command  # noqa: E402
from megatron_lmt.train import main  # noqa: E402

load = loop.load_checkpoint


def load_and_forget(folder, model, optimizer):
    load(folder, model, optimizer)
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for state in part.optimizer.state.values():
            state["exp_avg"].zero_()


loop.load_checkpoint = load_and_forget
run_command(main)
