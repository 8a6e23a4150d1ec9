"""Started by test_reshard: load the newest checkpoint of RUN under the layout of `key=value …`, and save it at TARGET."""

import os
import sys
from pathlib import Path

from megatron_lmt.preflight import check_run
from megatron_lmt.run_card import run_from_file
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, read_run_state
from megatron_lmt.runtime.device import open_device

run_file, target, *overrides = sys.argv[1:]
run, origin = run_from_file(Path(run_file), overrides)
ready = check_run(run, int(os.environ.get("WORLD_SIZE", 1)))
device = open_device()

from megatron_lmt.log import open_log  # noqa: E402
from megatron_lmt.loop import _Loop  # noqa: E402
from megatron_lmt.runtime import parallel  # noqa: E402
from megatron_lmt.runtime.checkpoint_saver import prepare_saving, save_checkpoint  # noqa: E402

prepare_saving()
parallel.open_process_groups(ready.run.parallel, device, ready.run.seed)
trainee = _Loop(ready, device, open_log(parallel.dist.get_rank()), origin).trainee  # it resumes
state = read_run_state(ready.resume_from)
save_checkpoint(Path(target), trainee.bare_model, trainee.optimizer, state, ready.run.output_dir / HF_FOLDER)
parallel.close_process_groups()
