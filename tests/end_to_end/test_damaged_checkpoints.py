"""A checkpoint that was damaged in any of its files is refused by name, and the one before it is offered."""

import dataclasses
import io
import os
import pickle
import random
import re
import shutil

import pytest
import torch

from megatron_lmt.errors import CheckpointError
from megatron_lmt.runtime.checkpoint_folder import committed, find_checkpoint, refuse_if
from megatron_lmt.runtime.checkpoint_manifest import commit, hash_problems, read_manifest, tensor_files
from tests.conftest import make_run
from tests.end_to_end.processes import curve, metrics, run, tool, train


@pytest.fixture(scope="module")
def saved(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    """A run with two checkpoints that were written in the background by two processes."""
    run_file = make_run(tmp_path_factory.mktemp("damage"), quickstart_tokenizer, tiny_tokens)
    output = train(run_file, 2, "checkpoint.async_save=true")
    assert output.count("training stood still for") == 2
    # the stall of iteration 10's save, before step 11; none was going on before it
    assert not any("checkpoint_stall_seconds" in step for step in metrics(run_file.parent / "run")[:10])
    assert metrics(run_file.parent / "run")[10]["checkpoint_stall_seconds"] > 0
    return run_file


@pytest.fixture
def copied(saved, tmp_path):
    """The checkpoints of the run, to be damaged."""
    shutil.copytree(saved.parent / "run" / "checkpoints", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def cut_off(file, at):
    file.write_bytes(file.read_bytes()[:at])


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << at % 8
    file.write_bytes(content)


def refusal(checkpoints):
    """What the next start says about the newest checkpoint: the quick look first, and then all processes the tensors."""
    with pytest.raises(CheckpointError) as refused:
        folder = find_checkpoint(checkpoints)
        files = read_manifest(folder)
        refuse_if(hash_problems(folder, files, tensor_files(files)), folder)
    *problems, last = refused.value.problems
    return [*problems, *last.split("\n")]  # behind the last one is the way out


def files_of(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_every_file_at_any_byte(copied):
    before, newest = committed(copied)
    names, draw = files_of(newest), random.Random(5)
    assert {".metadata", "common.pt", "metadata.json", "run_state.json", "COMMITTED.json"} < set(names)
    assert sum(name.endswith(".distcp") for name in names) == 4
    for name in names:
        file, whole = newest / name, (newest / name).read_bytes()
        places = [0, len(whole) // 2, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(5))]
        for damage, at in ((damage, at) for damage in (cut_off, flip) for at in places):
            damage(file, at)
            first, *_, way_out = refusal(copied)
            assert first.startswith(f"{file}: "), (damage, at)
            assert way_out == (
                f"the checkpoint before it, {before}, is complete; to go on from there: "
                f"mv {newest} {copied}/damaged_iter_0000020"
            )
            file.write_bytes(whole)
        if name != "COMMITTED.json":
            file.unlink()
            assert refusal(copied)[0].startswith(f"{file}: missing")
            file.write_bytes(whole)
    assert find_checkpoint(copied) == newest  # all was put back, and nothing else changed


def test_the_tool_names_what_is_damaged_in_any_checkpoint_of_a_run(copied):
    older, newest = committed(copied)
    output = tool("checkpoint/check_files.py", copied)
    assert output.count("bytes: in order") == 2
    flip(older / "__0_1.distcp", 77_777)
    cut_off(newest / "common.pt", 10)
    (copied / "iter_0000030").mkdir()
    output = tool("checkpoint/check_files.py", copied, code=1)
    assert f"error: {older}/__0_1.distcp: its sha256 is " in output
    assert f"error: {newest}/common.pt: 10 bytes instead of " in output
    assert f"{copied}/iter_0000030: not a whole checkpoint" in output and "in order" not in output
    assert "no such folder" in tool("checkpoint/check_files.py", copied.parent / "nowhere", code=2)


def test_what_is_offered_is_whole_itself(copied):
    before, newest = committed(copied)
    cut_off(newest / "common.pt", 10)
    cut_off(before / ".metadata", 10)
    assert refusal(copied)[-1].startswith("there is no other complete checkpoint beside ")


def test_flipped_tensors_stop_the_next_start_and_its_advice_helps(saved):
    run_dir = saved.parent / "run"
    first_curve, newest = curve(run_dir), run_dir / "checkpoints" / "iter_0000020"
    flip(newest / "__1_0.distcp", 5000)
    (run_dir / "DONE").unlink()
    output = train(saved, 1, code=2)
    assert f"error: {newest}/__1_0.distcp: its sha256 is " in output
    assert output.count("error: ") == 1  # the advice is no second problem
    command = output.split("to go on from there: ")[1].splitlines()[0]
    run(command.split())
    output = train(saved, 2)
    assert f"resumed from {run_dir}/checkpoints/iter_0000010" in output
    assert curve(run_dir) == first_curve  # and the background writing had saved step 10 as it was at step 10


def test_a_folder_that_lost_its_marker_is_named_and_not_used(saved):
    run_dir = saved.parent / "run"
    newest = run_dir / "checkpoints" / "iter_0000020"
    (newest / "COMMITTED.json").unlink()
    (run_dir / "DONE").unlink()
    output = train(saved, 2)
    assert f"{newest} is not used: it has no COMMITTED.json" in output
    assert f"resumed from {run_dir}/checkpoints/iter_0000010" in output


class Trap:
    """Unpickling it runs a command."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


def sealed(folder):
    """With a manifest that fits what is there now, as somebody with bad intentions would make it."""
    (folder / "COMMITTED.json").unlink()
    commit(folder, {})


@pytest.mark.parametrize("place", [".metadata", "object", "common.pt"])
def test_a_checkpoint_cannot_make_its_reader_call_anything(saved, copied, tmp_path, place):
    newest, victim = committed(copied)[-1], tmp_path / "victim"
    if place == "object":
        metadata = pickle.loads((newest / ".metadata").read_bytes())
        index = next(index for index in metadata.storage_data if index.fqn.startswith("decoder.") and "extra" in index.fqn)
        stored = metadata.storage_data[index]
        trapped = io.BytesIO()
        torch.save([Trap(victim)], trapped)
        with open(newest / stored.relative_path, "ab") as file:
            moved = dataclasses.replace(stored, offset=file.tell(), length=trapped.tell())
            file.write(trapped.getvalue())
        metadata.storage_data[index] = moved
        (newest / ".metadata").write_bytes(pickle.dumps(metadata))
    elif place == ".metadata":
        (newest / ".metadata").write_bytes(pickle.dumps(Trap(victim)))
    else:
        torch.save({"state": Trap(victim)}, newest / "common.pt")
    sealed(newest)
    target = f"output_dir={tmp_path}/other"
    output = train(saved, 1, target, f"model.pretrained_checkpoint={newest}", code=2)
    assert re.search(r"error: .*wants to call posix\.system", output), output
    assert not victim.exists()
