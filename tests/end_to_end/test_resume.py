"""Runs that are killed or told to stop go on exactly where they were."""

import json
import signal
import subprocess
import time

import psutil
import pytest

from megatron_lmt.config import load_run
from megatron_lmt.model.shape import read_shape
from megatron_lmt.runtime.retention import space_needed
from tests.conftest import TINY_MODEL, make_run
from tests.end_to_end.processes import curve, environment, metrics, same_result, train, training_command

LAYOUTS = {
    "TP2-PP2": (4, "parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"),
    "DP2": (2,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quickstart_tokenizer, tiny_tokens):
    folder = tmp_path_factory.mktemp("resume")
    make_run(folder, quickstart_tokenizer, tiny_tokens)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing disturbed, of two data-parallel processes."""
    return undisturbed_run(folder, "DP2")


def undisturbed_run(folder, layout):
    run_dir, (processes, *overrides) = folder / f"{layout}-whole", LAYOUTS[layout]
    if not (run_dir / "DONE").exists():
        train(folder / "run.toml", processes, f"output_dir={run_dir}", *overrides)
    return run_dir


GROUP_PATHS = {"mono": "mono.{language}", "parallel": "{direction}"}


def start(run_file, processes, *overrides):
    """Start a run in a process group of its own."""
    command = training_command(run_file, processes, *overrides)
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def kill_with_all_workers(launcher):
    """SIGKILL to torchrun alone would leave its workers running."""
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)


def iterations_done(run_dir):
    file = run_dir / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sigkill_after_a_checkpoint_then_resume_is_bit_equal(folder, layout):
    processes, *overrides = LAYOUTS[layout]
    run_file, killed = folder / "run.toml", folder / f"{layout}-killed"
    undisturbed = undisturbed_run(folder, layout)
    victim = start(run_file, processes, f"output_dir={killed}", *overrides)
    wait_for(lambda: (killed / "checkpoints/iter_0000010/COMMITTED.json").is_file() and iterations_done(killed) >= 12)
    kill_with_all_workers(victim)
    assert not (killed / "DONE").exists()
    # what a save that was killed leaves behind is not a checkpoint
    torn = killed / "checkpoints" / "iter_0000015"
    torn.mkdir()
    (torn / "common.pt").write_bytes(b"half")

    output = train(run_file, processes, f"output_dir={killed}", *overrides)
    assert f"resumed from {killed}/checkpoints/iter_0000010" in output
    same_result(killed, undisturbed)


def test_resume_under_another_layout_keeps_the_data_and_the_curve(folder, whole):
    moved = folder / "moved"
    subprocess.run(["cp", "-r", str(whole), str(moved)], check=True)
    for name in ("DONE", "checkpoints/iter_0000020/COMMITTED.json"):
        (moved / name).unlink()
    train(folder / "run.toml", 2, f"output_dir={moved}", "parallel.tensor_model_parallel_size=2")
    assert curve(moved) == pytest.approx(curve(whole), rel=1e-5)
    assert metrics(moved)[-1]["data_fingerprint"] == metrics(whole)[-1]["data_fingerprint"]


def test_interrupted_on_one_two_and_four_ranks_the_data_are_the_same(folder, whole):
    run_file, moved = folder / "run.toml", folder / "one-two-four"
    overrides = (f"output_dir={moved}", "checkpoint.save_interval=3", "train.micro_batch_size=1")
    for processes, enough in ((1, 5), (2, 11)):
        victim = start(run_file, processes, *overrides)
        wait_for(lambda enough=enough: iterations_done(moved) >= enough)
        kill_with_all_workers(victim)
    train(run_file, 4, *overrides)
    assert [step["data_fingerprint"] for step in metrics(moved)] == [step["data_fingerprint"] for step in metrics(whole)]
    assert (moved / "ledger.json").read_text() == (whole / "ledger.json").read_text()
    assert curve(moved) == pytest.approx(curve(whole), rel=1e-4)


def test_a_source_that_was_tokenised_again_is_noticed(folder, whole, tmp_path):
    moved = folder / "tokenised-again"
    subprocess.run(["cp", "-r", str(whole), str(moved)], check=True)
    (moved / "DONE").unlink()
    subprocess.run(["cp", "-r", f"{folder}/tokens/", str(tmp_path / "tokens")], check=True)
    manifest = tmp_path / "tokens/mono.zh_text_document.manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "xxh128": "of other tokens"}))
    paths = [f"data.mixture.{group}.path={tmp_path}/tokens/{name}_text_document" for group, name in GROUP_PATHS.items()]
    output = train(folder / "run.toml", 1, f"output_dir={moved}", *paths, code=2)
    assert "holds another run: phases.sample 0.mono/zh.xxh128 = " in output and "of other tokens now" in output


def test_a_phase_may_be_added_before_it_begins_and_not_after(folder, whole):
    changed, run_file = folder / "changed", folder / "run.toml"
    subprocess.run(["cp", "-r", str(whole), str(changed)], check=True)
    for name in ("DONE", "checkpoints/iter_0000020/COMMITTED.json"):
        (changed / name).unlink()
    phase = "data.phases=[{{start_iteration={}, weights={{mono=1, parallel=3}}}}]"
    output = train(run_file, 1, f"output_dir={changed}", phase.format(5), code=2)
    assert "holds another run: phases.sample 40.parallel/en-zh.weight = None before, 0.375 now" in output
    train(run_file, 2, f"output_dir={changed}", phase.format(15))
    steps, before = metrics(changed), metrics(whole)
    assert [step["data_fingerprint"] for step in steps[:15]] == [step["data_fingerprint"] for step in before[:15]]
    assert steps[15]["data_fingerprint"] != before[15]["data_fingerprint"]
    ledger = json.loads((changed / "ledger.json").read_text())
    drawn = {group: sum(row["samples"] for row in ledger if row["group"] == group) for group in ("mono", "parallel")}
    assert drawn == {"mono": 70, "parallel": 90}  # 8 · (15/2 + 5/4), and 8 · (15/2 + 15/4)


@pytest.mark.parametrize(("stop_signal", "processes"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_a_stop_signal_saves_and_exits_cleanly(folder, stop_signal, processes):
    stopped = folder / f"stopped-{stop_signal.name}"
    run_file = folder / "run.toml"
    process = start(run_file, processes, f"output_dir={stopped}", "checkpoint.save_interval=1000")
    wait_for(lambda: iterations_done(stopped) >= 3)
    # as srun does it, to each task; to just one of them it would be the same
    workers = psutil.Process(process.pid).children() if processes > 1 else [process]
    workers[-1].send_signal(stop_signal)
    output = process.communicate(timeout=180)[0].decode()
    assert process.returncode == 0, output
    done = iterations_done(stopped)
    assert f"stopped by a signal after iteration {done}" in output and done < 20
    assert (stopped / "latest_checkpointed_iteration.txt").read_text() == f"{done}\n"
    train(run_file, processes, f"output_dir={stopped}", "checkpoint.save_interval=1000")
    assert [step["iteration"] for step in metrics(stopped)] == list(range(1, 21))


def test_a_finished_run_says_so_and_does_nothing(folder, whole):
    before = (whole / "metrics.jsonl").stat().st_mtime_ns
    assert "already reached" in train(folder / "run.toml", 2, f"output_dir={whole}")
    assert (whole / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_is_refused_by_name(folder, whole):
    damaged = folder / "damaged"
    subprocess.run(["cp", "-r", str(whole), str(damaged)], check=True)
    (damaged / "DONE").unlink()
    file = next((damaged / "checkpoints/iter_0000020").glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    output = train(folder / "run.toml", 1, f"output_dir={damaged}", code=2)
    assert f"{file}: {file.stat().st_size} bytes instead of {file.stat().st_size + 1}" in output


def test_the_newest_and_the_retained_checkpoints_are_kept_and_of_the_estimated_size(folder):
    kept, wide = folder / "kept", folder / "wide"
    wide.mkdir()
    (wide / "config.json").write_text(json.dumps({**TINY_MODEL, "hidden_size": 256, "intermediate_size": 512}))
    overrides = (f"output_dir={kept}", "model.hf_config=wide", "checkpoint.keep_last=2", "train.train_iters=7")
    output = train(folder / "run.toml", 1, *overrides, "checkpoint.save_interval=1", "checkpoint.save_retain_interval=3")
    folders = sorted((kept / "checkpoints").iterdir())
    assert [path.name for path in folders] == ["iter_0000003", "iter_0000006", "iter_0000007"]
    space = space_needed(load_run(folder / "run.toml", [*overrides]), read_shape(wide))
    assert f"checkpoints: about {space.checkpoint_bytes / 1e6:.1f} MB each, up to 5 at a time; " in output
    size = sum(file.stat().st_size for file in folders[-1].rglob("*.distcp"))
    assert size == pytest.approx(space.checkpoint_bytes, rel=0.03)


def test_a_run_whose_checkpoints_do_not_fit_does_not_start(folder):
    endless = (f"output_dir={folder}/endless", "train.train_iters=1_000_000_000_000", "checkpoint.save_interval=1")
    output = train(folder / "run.toml", 1, *endless, code=2)
    assert "the disk is too small; checkpoints: about 1.3 MB each, up to 1,000,000,000,000 at a time; " in output
    assert not (folder / "endless").exists()
