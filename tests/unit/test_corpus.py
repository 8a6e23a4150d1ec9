"""Text for continued pre-training and for fine-tuning: formats, directions, downsampling, and nothing lost."""

import json

import psutil
import pytest

from megatron_lmt.corpus.cpt import build_cpt_corpus, format_pair
from megatron_lmt.corpus.files import CorpusFolder
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.languages import directions
from megatron_lmt.sft.corpus import build_sft_corpus
from tests.conftest import REPOSITORY


def records(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def inputs(pair_inputs):
    """2,000 pairs en-ky, aligned lines of en, zh and ky, and two documents with characters that must survive."""
    lines = [json.dumps({"text": text}) for text in ("ᠠ\u202f\u180e\u200d", "two\nlines\u2028")]
    (pair_inputs / "mono.mvf.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pair_inputs


def config(tmp_path, text, name="corpus.toml"):
    (tmp_path / name).write_text('root = "inputs"\n' + text)
    return tmp_path / name


PAIRS = '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-ky"]\n'
ALIGNED = '[[aligned]]\npath = "{language}.txt"\npairs = ["en-zh", "en-ky", "zh-ky"]\n'


@pytest.mark.parametrize(
    ("style", "documents"),
    [
        ("tags", ["<en2ky> Good day. <ky> Саламатсызбы."]),
        ("plain", ["Good day. Саламатсызбы."]),
        ("newline", ["Good day.\nСаламатсызбы."]),
        ("split", ["Good day.", "Саламатсызбы."]),
    ],
)
def test_formats(style, documents):
    assert format_pair(style, "en", "ky", "Good day.", "Саламатсызбы.") == documents


def test_each_pair_is_in_one_direction_half_of_them_in_each(tmp_path, inputs):
    counts = build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "out")
    forward, backward = records(tmp_path / "out", "en-ky"), records(tmp_path / "out", "ky-en")
    assert counts == {"en-ky": len(forward), "ky-en": len(backward)}
    assert len(forward) + len(backward) == 2000 and 900 < len(forward) < 1100
    expected = {f"<en2ky> source {i} <ky> булак {i}" for i in range(2000)}
    expected |= {f"<ky2en> булак {i} <en> source {i}" for i in range(2000)}
    texts = [record["text"] for record in forward + backward]
    assert set(texts) <= expected and len({record["id"] for record in forward + backward}) == 2000
    number = [int(text.split()[2]) for text in texts]
    assert sorted(number) == list(range(2000))


def test_a_group_of_pairs_between_some_languages(tmp_path, inputs):
    text = '[[aligned]]\npath = "{language}.txt"\npairs = "all"\nlanguages = ["zh", "ky", "en"]\nexclude = ["zh-ky"]\n'
    build_cpt_corpus(config(tmp_path, text), tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.jsonl")} == {"en-zh", "zh-en", "en-ky", "ky-en"}


def test_sources_of_one_direction_are_joined_and_counted(tmp_path, inputs):
    mono = '[[monolingual]]\npath = "mono.{language}.jsonl"\nlanguages = ["mvf"]\n'
    counts = build_cpt_corpus(config(tmp_path, PAIRS + ALIGNED + mono), tmp_path / "out")
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    assert summary["records"] == counts
    assert summary["read"] == {
        "en-ky.tsv": 2000,
        "en.txt+zh.txt": 1000,
        "en.txt+ky.txt": 1000,
        "zh.txt+ky.txt": 1000,
        "mono.mvf.jsonl": 2,
    }
    assert sum(counts.values()) == 5002
    assert summary["bytes"] == {name: (tmp_path / f"out/{name}.jsonl").stat().st_size for name in counts}
    assert [record["text"] for record in records(tmp_path / "out", "mono.mvf")] == [
        "ᠠ\u202f\u180e\u200d",
        "two\nlines\u2028",
    ]


def test_the_same_config_gives_the_same_bytes_and_another_seed_does_not(tmp_path, inputs):
    build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "one")
    build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "two")
    build_cpt_corpus(config(tmp_path, "seed = 2\n" + PAIRS), tmp_path / "three")
    one, two, three = ((tmp_path / name / "en-ky.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[pairs]]\npath = "{source}.tsv"\npairs = ["en-xx"]\n', "unknown language code 'xx'"),
        ('[[pairs]]\npath = "en-ky.tsv"\npairs = ["en-ky"]\n', "names one file for several sources"),
        ('[[pairs]]\npath = "{src}-{target}.tsv"\npairs = ["en-ky"]\n', r"unknown placeholders \['src'\]"),
        (PAIRS + 'exclude = ["en-de"]\n', "not among the pairs"),
        (PAIRS + 'languages = ["en", "ky"]\n', "languages goes with a group of pairs"),
        ('[format]\nparallel = "xml"\n' + PAIRS, "format.parallel"),
        ('[[mono]]\npath = "x"\n', "mono: unknown key"),
        ('root = "elsewhere"\n', "not TOML"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, inputs, text, message):
    with pytest.raises(ConfigError, match=message):
        build_cpt_corpus(config(tmp_path, text), tmp_path / "out")


def test_what_is_missing_empty_or_there_already(tmp_path, inputs):
    missing = '[[aligned]]\npath = "{language}.gz"\npairs = ["en-zh", "en-ky"]\n'
    with pytest.raises(DataError) as caught:
        build_cpt_corpus(config(tmp_path, missing), tmp_path / "out")
    assert len(caught.value.problems) == 3
    (inputs / "en-ky.tsv").write_text("")
    with pytest.raises(DataError, match="no record in it"):
        build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "out")
    with pytest.raises(DataError, match="no input"):
        build_cpt_corpus(config(tmp_path, ""), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"\$NOT_SET"):
        build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "out", root="$NOT_SET")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.toml", "inputs"]
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="not written over"):
        build_cpt_corpus(config(tmp_path, ALIGNED), tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-ky", "en-ky"]\n',
        PAIRS + PAIRS,
        '[[pairs]]\npath = "{source}.txt"\npairs = ["en-ky", "en-zh"]\n',
        '[[aligned]]\npath = "{language}.txt"\npairs = ["en-ky", "ky-en"]\n',
    ],
)
def test_an_input_that_is_named_twice_is_refused(tmp_path, inputs, tiny_tokenizer, text):
    for build, others in ((build_cpt_corpus, ()), (build_sft_corpus, (tiny_tokenizer,))):
        with pytest.raises(DataError, match="named 2 times") as caught:
            build(config(tmp_path, text), tmp_path / "out", *others)
        assert len(caught.value.problems) == 1
    assert not (tmp_path / "out").exists()


def test_a_direction_without_a_record_is_refused(tmp_path, inputs):
    (inputs / "en-ky.tsv").write_text("one\tбир\n", encoding="utf-8")
    with pytest.raises(DataError, match="^(en-ky|ky-en): no record, because all of this pair went the other way"):
        build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_interrupted_run_left_is_refused(tmp_path, inputs):
    (tmp_path / "out.unfinished").mkdir()
    with pytest.raises(ConfigError, match=r"out\.unfinished is what an interrupted run left behind: delete it"):
        build_cpt_corpus(config(tmp_path, PAIRS), tmp_path / "out")


def test_more_files_than_may_be_open_at_once(tmp_path):
    names = [str(number) for number in range(CorpusFolder.MOST_OPEN_FILES + 5)]
    open_files = []
    with CorpusFolder(tmp_path / "out") as corpus:
        for text in ("first", "second"):
            for name in names:
                corpus.add(name, {"text": text})
                open_files.append(psutil.Process().num_fds())
        corpus.finish({})
    assert max(open_files) - min(open_files) < CorpusFolder.MOST_OPEN_FILES
    assert all([r["text"] for r in records(tmp_path / "out", name)] == ["first", "second"] for name in names)


def test_60_languages_and_234_directions_of_real_text(tmp_path, sample_data):
    config_file = REPOSITORY / "examples/sample60/corpus.toml"
    counts = build_cpt_corpus(config_file, tmp_path / "out", root=str(sample_data))
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    assert len(counts) == 60 + 234 and {name for name in counts if not name.startswith("mono.")} == set(directions("all"))
    assert sum(summary["read"].values()) == sum(counts.values()) > 200_000
    assert {name: (tmp_path / f"out/{name}.jsonl").read_bytes().count(b"\n") for name in counts} == counts
