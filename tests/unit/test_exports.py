"""An export that fails costs a warning, never the run."""

import errno
import logging
import os
import subprocess

import pytest

from megatron_lmt import exports
from megatron_lmt.config import load_run
from megatron_lmt.exports import Exports
from megatron_lmt.runtime.checkpoint_folder import iteration_folder
from megatron_lmt.runtime.checkpoint_manifest import commit


@pytest.fixture
def exporting(tiny_run):
    """The exports of a run of 20 iterations, and its two checkpoints."""
    run = load_run(tiny_run, ["checkpoint.export_every=10"])
    checkpoints = [run.output_dir / "checkpoints" / iteration_folder(iteration) for iteration in (10, 20)]
    for folder in checkpoints:
        folder.mkdir(parents=True)
        commit(folder, {})
    return Exports(run, logging.getLogger("test"), None), checkpoints


def test_what_it_was_made_from_cannot_be_deleted(exporting, monkeypatch, caplog):
    def held_open(folder, **_):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))  # as on NFS, where somebody reads it

    monkeypatch.setattr(exports, "start_beside", lambda command, log: subprocess.Popen(["true"]))
    monkeypatch.setattr(exports.shutil, "rmtree", held_open)
    work, checkpoints = exporting
    for folder in checkpoints:
        work.committed(folder)
    work.finish(lambda phase: None)
    assert [record.message.split(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        f"{folder.parents[1]}/exports/.checkpoint-{folder.name} cannot be deleted" for folder in checkpoints
    ]


def test_the_process_beside_the_training_cannot_be_started(exporting, monkeypatch, caplog):
    def no_memory(command, log):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(exports, "start_beside", no_memory)
    work, checkpoints = exporting
    for folder in checkpoints:
        work.committed(folder)
    work.finish(lambda phase: None)
    assert caplog.text.count("is not made in this start: [Errno 12]") == 2
    kept = sorted(path.name for path in (checkpoints[0].parents[1] / "exports").iterdir())
    assert kept == [".checkpoint-iter_0000010", ".checkpoint-iter_0000020"]  # for the next start
