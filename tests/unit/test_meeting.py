"""What the processes of a start found wrong is said once, and by whom it was found if not by all."""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

from megatron_lmt.config import load_run
from megatron_lmt.preflight import check_run
from megatron_lmt.runtime.meeting import Meeting, different, join, merged
from megatron_lmt.train import what_must_agree
from tests.end_to_end.processes import free_port


def test_what_all_found_is_said_once_and_what_one_found_with_its_place():
    common = ["no such file: a", "no such file: b"]
    found = [("n0", common), ("n0", common), ("n1", [*common, "no GPU"]), ("n1", ["no GPU", *common])]
    assert merged(found) == [*common, "rank 2 on n1, rank 3 on n1: no GPU"]


def test_what_only_the_first_looks_for_is_a_problem_of_all():
    assert merged([("n0", ["a wrong mask"]), ("n0", [])]) == ["a wrong mask"]
    assert merged([("n0", []), ("n0", [])]) == []


def test_who_has_other_settings_is_named():
    found = [("n0", []), ("n0", []), ("n1", [])]
    a, b = {"settings": "a"}, {"settings": "b"}
    assert different([a, a, a], found) == different([a, {}, a], found) == different([{}, a, b], found) == []
    (problem,) = different([a, a, b], found)
    assert problem.startswith("rank 2 on n1: other settings than rank 0; start all with the same run file")


def test_the_first_is_waited_for_longer_than_any_timeout():
    store = dist.TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False)
    others = [Meeting(store.clone(), rank, 3) for rank in (1, 2)]
    for each in others:
        each.store.set_timeout(timedelta(milliseconds=1))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(other.wait_for_first) for other in others]
        assert wait(waiting, timeout=0.5).done == set()  # where they would end by the timeout
        Meeting(store, 0, 3).wait_for_first()
        assert [each.result(timeout=60) for each in waiting] == [None, None]


def test_processes_that_see_another_newest_checkpoint_do_not_train_together(tiny_run):
    """As on a network file system, which shows some nodes later what is new."""
    ready = check_run(load_run(tiny_run), 2)
    run_dir = ready.run.output_dir
    newest, older = (replace(ready, resume_from=run_dir / f"checkpoints/iter_00000{n}0") for n in (2, 1))
    found = [("n0", []), ("n1", [])]
    assert different([what_must_agree(newest), what_must_agree(newest)], found) == []
    (problem,) = different([what_must_agree(newest), what_must_agree(older)], found)
    assert problem.startswith(
        f"rank 1 on n1: checkpoint to go on from: {older.resume_from}, but {newest.resume_from} for rank 0; "
    )
    run_dir.mkdir()
    before, after = ready.nothing_to_do, replace(ready)
    (run_dir / "EXIT").touch()  # while the processes start
    assert before is None and ready.nothing_to_do is None  # what it told the others is what it does
    (problem,) = different([what_must_agree(ready), what_must_agree(after)], found)
    assert f"rank 1 on n1: reason to do nothing: {run_dir}/EXIT is there" in problem


def test_processes_that_torchrun_starts_again_find_nothing_of_those_before(monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    before = join()
    before.store.set("the address of a process", "that is gone")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert join().store.check(["the address of a process"]) is False and before.store.check(["the address of a process"])
