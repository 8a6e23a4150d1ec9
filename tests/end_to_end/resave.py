"""Started by test_reshard: load the newest checkpoint of RUN under the layout of `key=value …`, and save it at TARGET."""

import os
import sys
from pathlib import Path

from megatron_lmt.config import load_run
from megatron_lmt.preflight import check_run
from megatron_lmt.runtime.checkpoint_folder import HF_FOLDER, read_run_state
from megatron_lmt.runtime.device import open_device

run_file, target, *overrides = sys.argv[1:]
ready = check_run(load_run(Path(run_file), overrides), int(os.environ.get("WORLD_SIZE", 1)))
device = open_device()

from megatron_lmt.runtime import parallel  # noqa: E402
from megatron_lmt.runtime.checkpoint import load_checkpoint  # noqa: E402
from megatron_lmt.runtime.checkpoint_saver import CheckpointSaver, prepare_saving  # noqa: E402
from megatron_lmt.start import build_trainee  # noqa: E402

prepare_saving()
parallel.open_process_groups(ready.run.parallel, device, ready.run.seed)
trainee = build_trainee(ready, device)
load_checkpoint(ready.resume_from, trainee.bare_model, trainee.optimizer)
state = read_run_state(ready.resume_from)
saver = CheckpointSaver(in_background=False, check_may_commit=lambda: None)
saver.start(Path(target), trainee.bare_model, trainee.optimizer, state, ready.run.output_dir / HF_FOLDER)
parallel.close_process_groups()
