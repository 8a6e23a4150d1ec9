import errno
import logging
import os
import shutil
import threading
from types import SimpleNamespace

import pytest

from megatron_lmt.config import load_run
from megatron_lmt.errors import ConfigError, UserError
from megatron_lmt.files import write_json_atomically
from megatron_lmt.model.shape import read_shape
from megatron_lmt.preflight import DONE, RESOLVED, check_run, resolved
from megatron_lmt.runtime import retention
from megatron_lmt.runtime.checkpoint_folder import committed, iteration_folder
from megatron_lmt.runtime.checkpoint_manifest import commit


def kept_over_a_run(run):
    """The checkpoints there are after each save, as the trainer deletes them."""
    section, saved, states = run.checkpoint, [], []
    for iteration in range(1, run.train_iters + 1):
        if iteration % section.save_interval == 0 or iteration == run.train_iters:
            saved.append(iteration)
            states.append(list(saved))
            saved = [other for other in saved if other not in retention.superfluous(saved, section)]
    return states, saved


@pytest.mark.parametrize(
    ("overrides", "last"),
    [
        ((), [10, 20, 30, 40, 50, 55]),
        (("checkpoint.keep_last=2",), [50, 55]),
        (("checkpoint.keep_last=1", "checkpoint.save_retain_interval=20"), [20, 40, 55]),
        (("checkpoint.keep_last=3", "checkpoint.save_retain_interval=50"), [40, 50, 55]),
        (("checkpoint.keep_last=9",), [10, 20, 30, 40, 50, 55]),
    ],
)
def test_the_estimate_covers_what_there_is_at_any_time(tiny_run, overrides, last):
    run = load_run(tiny_run, ["train.train_iters=55", *overrides])
    states, saved = kept_over_a_run(run)
    assert saved == last
    most, real = retention.space_needed(run, read_shape(run.path("config.json"))).most_at_a_time, max(map(len, states))
    assert real <= most <= real + 1


@pytest.fixture
def three_checkpoints(tiny_run):
    """The folder of checkpoints of a run that keeps one of them, and what its run file says."""
    run = load_run(tiny_run, ["checkpoint.keep_last=1"])
    checkpoints = run.output_dir / "checkpoints"
    for iteration in (10, 20, 30):
        (checkpoints / iteration_folder(iteration)).mkdir(parents=True)
        commit(checkpoints / iteration_folder(iteration), {})
    return checkpoints, run.checkpoint


def test_training_goes_on_while_old_checkpoints_are_deleted(three_checkpoints, monkeypatch):
    checkpoints, section = three_checkpoints
    disk_answers, delete = threading.Event(), shutil.rmtree
    monkeypatch.setattr(retention.shutil, "rmtree", lambda folder: disk_answers.wait(60) and delete(folder))
    deletions = retention.Deletions(logging.getLogger("test"))
    deletions.delete_superfluous(checkpoints, section)  # returns though the disk does not answer
    assert committed(checkpoints) == [checkpoints / iteration_folder(30)]
    deletions.delete_superfluous(checkpoints, section)
    assert len(list(checkpoints.iterdir())) == 3
    disk_answers.set()
    deletions.wait()
    assert list(checkpoints.iterdir()) == [checkpoints / iteration_folder(30)]


def test_what_cannot_be_deleted_costs_a_warning(three_checkpoints, monkeypatch, caplog):
    def held_open(folder):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))  # as on NFS, where somebody reads it

    monkeypatch.setattr(retention.shutil, "rmtree", held_open)
    deletions = retention.Deletions(logging.getLogger("test"))
    deletions.delete_superfluous(*three_checkpoints)
    deletions.wait()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "Directory not empty: '" in caplog.text and "iter_0000010" in caplog.text


def test_what_a_run_has_already_needs_no_more_room(tiny_run, monkeypatch):
    run = load_run(tiny_run, ["train.train_iters=40", "train.bf16=true"])
    shape = read_shape(run.path("config.json"))
    each = 14 * shape.num_parameters
    assert retention.space_needed(run, shape).to_come_bytes == 4 * each
    for iteration in (10, 20, 30):
        folder = run.output_dir / "checkpoints" / iteration_folder(iteration)
        folder.mkdir(parents=True)
        commit(folder, {})
    assert retention.space_needed(run, shape).to_come_bytes == each
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: SimpleNamespace(free=each))
    retention.check_free_disk(run, shape)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: SimpleNamespace(free=each - 1))
    with pytest.raises(ConfigError, match="the disk is too small"):
        retention.check_free_disk(run, shape)
    moved_away = load_run(tiny_run, ["train.bf16=true", "checkpoint.require_free_disk=false"])
    retention.check_free_disk(moved_away, shape)


@pytest.mark.parametrize(
    ("output_dir", "reason"),
    [
        ("/proc/xx", "/proc: No such file or directory; name another folder, or have"),
        ("config.json", "config.json is a file; name an empty or new folder"),
        ("config.json/run", "config.json: Not a directory; name another folder, or have"),
        ("a" * 300, "aaa: File name too long; name another folder, or have"),
    ],
)
def test_a_folder_that_cannot_be_made_is_not_called_too_small(tiny_run, output_dir, reason):
    with pytest.raises(UserError) as refused:
        check_run(load_run(tiny_run, [f"output_dir={output_dir}", "model.hf_config=absent.json"]), 1)
    absent, problem = refused.value.problems  # said together with what else is wrong
    assert "absent.json" in absent
    assert problem.startswith("output_dir = ") and reason in problem


def test_a_full_disk_hinders_neither_a_run_that_is_done_nor_who_looks_at_one(tiny_run, monkeypatch):
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    run = load_run(tiny_run)
    with pytest.raises(ConfigError, match="the disk is too small"):
        check_run(run, 1)
    ready = check_run(run, None, writes=False)
    run.output_dir.mkdir()
    write_json_atomically(run.output_dir / RESOLVED, resolved(ready))
    (run.output_dir / DONE).touch()
    assert "already reached" in check_run(run, 1).nothing_to_do


def test_exports_need_room_and_keep_one_checkpoint_longer(tiny_run):
    overrides = ["train.train_iters=45", "train.bf16=true", "checkpoint.keep_last=1"]
    shape = read_shape(load_run(tiny_run).path("config.json"))
    without = retention.space_needed(load_run(tiny_run, overrides), shape)
    run = load_run(tiny_run, [*overrides, "checkpoint.export_every=20"])
    space = retention.space_needed(run, shape)
    assert (space.exports, space.export_bytes) == (3, 2 * shape.num_parameters)  # 20, 40, 45
    assert space.to_come_bytes == without.to_come_bytes + space.checkpoint_bytes + 3 * space.export_bytes
    assert f"exports: 3 of {space.export_bytes / 1e6:.1f} MB; " in str(space) and "exports" not in str(without)
    for name in ("iter_0000020", "iter_0000020.log", ".checkpoint-iter_0000040"):
        (run.output_dir / "exports" / name).mkdir(parents=True)
    assert retention.space_needed(run, shape).to_come_bytes == space.to_come_bytes - space.export_bytes
