"""checkpoint.export_every: Hugging Face models beside the training."""

import shutil

from megatron_lmt.conversion.mcore_to_hf import export_to_hf
from megatron_lmt.conversion.options import Options
from tests.end_to_end.processes import train
from tests.end_to_end.trained import assert_equal, tensors_of_hf

EVERY = ("checkpoint.save_interval=2", "checkpoint.export_every=4", "checkpoint.keep_last=1", "validation.eval_interval=50")


def test_models_are_made_beside_the_training_and_are_the_converters(tiny_run, tmp_path):
    folder = tiny_run.parent / "run"
    train(tiny_run, 2, *EVERY, "train.train_iters=10", "parallel.pipeline_model_parallel_size=2")
    exports = sorted(path.name for path in (folder / "exports").iterdir() if not path.name.endswith(".log"))
    assert exports == ["iter_0000004", "iter_0000008", "iter_0000010"]
    # the checkpoints of two of them are deleted by now
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["iter_0000010"]
    export_to_hf(folder, tmp_path / "hf", Options())
    assert_equal(tensors_of_hf(folder / "exports" / "iter_0000010"), tensors_of_hf(tmp_path / "hf"))
    steps = [line for line in (folder / "train.log").read_text().splitlines() if " iteration " in line or "exported" in line]
    exported = [number for number, line in enumerate(steps) if "exported" in line]
    assert len(exported) == 3 and "# iter_0000004" in (folder / "exports" / "iter_0000004" / "README.md").read_text()

    # what a killed run left: half an export of its newest checkpoint, half of a copy, and a copy that waited for its turn
    before = tensors_of_hf(folder / "exports" / "iter_0000010")
    (folder / "exports" / "iter_0000010").rename(folder / "exports" / "iter_0000010.unfinished")
    (folder / "exports" / ".checkpoint-iter_0000010").mkdir()
    shutil.rmtree(folder / "exports" / "iter_0000008")
    shutil.copytree(folder / "checkpoints" / "iter_0000010", folder / "exports" / ".checkpoint-iter_0000008")
    (folder / "DONE").unlink()
    train(tiny_run, 2, *EVERY, "train.train_iters=10", "parallel.pipeline_model_parallel_size=2")
    assert_equal(tensors_of_hf(folder / "exports" / "iter_0000010"), before)
    assert_equal(tensors_of_hf(folder / "exports" / "iter_0000008"), before)  # made from a copy of the same
    assert not list(folder.glob("exports/*.unfinished")) and not list(folder.glob("exports/.checkpoint-*"))

    (folder / "DONE").unlink()
    output = train(tiny_run, 2, *EVERY, "train.train_iters=10", "parallel.pipeline_model_parallel_size=2")
    assert "export" not in output.split("resumed from")[1]  # all are there


def test_exports_are_of_iterations_that_are_saved(tiny_run):
    output = train(tiny_run, 1, "checkpoint.export_every=5", code=2)
    assert "export_every = 5 is no multiple of save_interval = 10" in output
