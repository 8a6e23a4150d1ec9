"""What the processes of a start found wrong is said once, and by whom it was found if not by all."""

from megatron_lmt.runtime.meeting import different, merged


def test_what_all_found_is_said_once_and_what_one_found_with_its_place():
    common = ["no such file: a", "no such file: b"]
    found = [("n0", common), ("n0", common), ("n1", [*common, "no GPU"]), ("n1", ["no GPU", *common])]
    assert merged(found) == [*common, "rank 2 on n1, rank 3 on n1: no GPU"]


def test_what_only_the_first_looks_for_is_a_problem_of_all():
    assert merged([("n0", ["a wrong mask"]), ("n0", [])]) == ["a wrong mask"]
    assert merged([("n0", []), ("n0", [])]) == []


def test_who_has_other_settings_is_named():
    found = [("n0", []), ("n0", []), ("n1", [])]
    assert different(["a", "a", "a"], found) == different(["a", "", "a"], found) == []
    (problem,) = different(["a", "a", "b"], found)
    assert problem.startswith("rank 2 on n1: other settings than rank 0; start all with the same run file")
