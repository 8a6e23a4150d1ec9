"""DESIGN 4: a run that is killed and resumed is bit-equal to one that is not."""

import sys

from tests.conftest import REPOSITORY, make_run
from tests.end_to_end.processes import run, same_result


def test_twenty_kills_in_two_hundred_steps_change_nothing(tmp_path, quickstart_tokenizer, tiny_tokens):
    run_file = make_run(tmp_path, quickstart_tokenizer, tiny_tokens)
    overrides = (
        "train.train_iters=200",
        "train.micro_batch_size=1",
        "train.global_batch_size=2",
        "checkpoint.keep_last=2",
        "checkpoint.async_save=true",
        "validation.eval_interval=1000",
        "validation.eval_samples=2",
        "logging.tensorboard=false",
    )
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    script = str(REPOSITORY / "tests" / "end_to_end" / "killed_often.py")
    for kills, run_dir, save_interval in ((0, undisturbed, 200), (20, killed, 7)):
        own = (f"output_dir={run_dir}", f"checkpoint.save_interval={save_interval}")
        output = run([sys.executable, script, str(kills), str(run_dir), str(run_file), *own, *overrides], timeout=600)
        assert output.count("killed after iteration") == kills and output.count("while saving") >= kills // 3
    same_result(killed, undisturbed)
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["iter_0000196", "iter_0000200"]
