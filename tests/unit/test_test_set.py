"""Test sets: which file is of which language, alignment, and the names of directions."""

import gzip

import pytest

from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.eval.test_set import TestSet


@pytest.fixture
def folder(tmp_path):
    for name in ("flores.dev.en", "zho_Hans.devtest", "flores.dev.de.txt", "mvf.txt"):
        (tmp_path / name).write_text("one\ntwo\u2028still two\r\nthree", encoding="utf-8", newline="")
    with gzip.open(tmp_path / "ntrex.nb.txt.gz", "wt", encoding="utf-8") as file:
        file.write("en\nto\ntre\n")
    for name in ("README.md", "metadata_dev.tsv", "en-de.txt", "test.en.de"):
        (tmp_path / name).touch()
    return tmp_path


def test_files_are_known_by_a_code_in_their_name(folder):
    test_set = TestSet(folder)
    assert set(test_set.files) == {"en", "zh", "de", "mvf", "nb"}
    texts = test_set.read(["zh", "nb"])
    assert texts == {"zh": ["one", "two\u2028still two", "three"], "nb": ["en", "to", "tre"]}
    assert test_set.read(["nb"], max_lines=2) == {"nb": ["en", "to"]}


def test_directions_by_name_and_group(folder):
    test_set = TestSet(folder)
    assert test_set.directions(["de-mvf", "en-de"]) == (["de-mvf", "en-de"], [])
    found, lacking = test_set.directions(["x-zh", "en-zh"])
    assert found == ["de-zh", "nb-zh", "mvf-zh", "en-zh"] and len(lacking) == 55
    everything, lacking = test_set.directions(["all-234"])
    assert everything == test_set.directions(["all"])[0] and len(everything) + len(lacking) == 234 and len(everything) == 14


def test_names_that_mean_nothing_here_are_all_told(folder):
    with pytest.raises(ConfigError) as caught:
        TestSet(folder).directions(["en-xx", "x-x", "en-ky", "en-x"])
    told = "\n".join(caught.value.problems)
    assert "'xx'" in told and "all-234" in told and "direction en-ky: no file of ky" in told


def test_files_that_do_not_fit_are_told(folder):
    (folder / "ky.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="mvf.txt 3, ky.txt 2"):
        TestSet(folder).read(["mvf", "ky"])
    (folder / "ky.txt").write_text("one\n \nthree\n")
    with pytest.raises(DataError, match="ky.txt:2: no text"):
        TestSet(folder).read(["mvf", "ky"])
    (folder / "kir_Cyrl.dev").write_text("one\n")
    with pytest.raises(ConfigError, match="kir_Cyrl.dev and ky.txt are both of ky"):
        TestSet(folder)


def test_folders_without_a_test_set(tmp_path):
    (tmp_path / "mono.en.jsonl").write_text('{"text": "Water."}\n')
    (tmp_path / "en-de.tsv.gz").touch()
    with pytest.raises(ConfigError, match="no file with a language code"):
        TestSet(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        TestSet(tmp_path / "none")


def test_the_sample_data_has_all_directions(sample_data):
    found, lacking = TestSet(sample_data / "flores200_dev").directions(["all-234"])
    assert len(found) == 234 and not lacking
