"""Text for fine-tuning: prompts and targets, Strategic Downsampling, auxiliary sentences, and what is kept out."""

import gzip
import json
from collections import Counter

import pytest

from megatron_lmt.corpus.test_sets import fingerprint, known_test_sets
from megatron_lmt.errors import ConfigError, DataError
from megatron_lmt.languages import auxiliary_language, directions, is_downsampled, pairs, split_direction
from megatron_lmt.preprocessing.records import read_lines
from megatron_lmt.sft.corpus import build_sft_corpus
from tests.conftest import REPOSITORY
from tests.unit.test_corpus import ALIGNED, PAIRS, config, records

PLAIN = "[pmp]\nshare = 0.0\n"


def ids(folder, name):
    file = folder / f"{name}.jsonl"
    return {record["id"] for record in records(folder, name)} if file.exists() else set()


def test_prompts_and_targets(tmp_path, pair_inputs, tiny_tokenizer):
    build_sft_corpus(config(tmp_path, ALIGNED), tmp_path / "out", tiny_tokenizer)
    first = records(tmp_path / "out", "en-ky")[0]
    assert first == {
        "prompt": "<|im_start|>user\nTranslate the following text from English into Kirghiz:\nEnglish: en 0\nKirghiz:"
        "<|im_end|>\n<|im_start|>assistant\n",
        "target": "ky 0<|im_end|>",
        "id": "en.txt+ky.txt:1",
    }


def test_the_config_names_the_chat_template_and_the_command_may_name_another(tmp_path, pair_inputs, tiny_tokenizer):
    (pair_inputs / "tokenizer").symlink_to(tiny_tokenizer)
    build_sft_corpus(config(tmp_path, f'chat_template_from = "tokenizer"\n{ALIGNED}'), tmp_path / "named")
    absent = config(tmp_path, f'chat_template_from = "absent"\n{ALIGNED}')
    build_sft_corpus(absent, tmp_path / "given", tiny_tokenizer)
    assert (tmp_path / "named/ky-en.jsonl").read_bytes() == (tmp_path / "given/ky-en.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="absent: no such folder"):
        build_sft_corpus(absent, tmp_path / "out")
    with pytest.raises(ConfigError, match="set chat_template_from or --tokenizer"):
        build_sft_corpus(config(tmp_path, ALIGNED), tmp_path / "out")


def test_a_direction_that_downsampling_empties_has_no_file_and_is_listed(tmp_path, pair_inputs, tiny_tokenizer):
    text = '[downsample]\nrate = 0.0\nscope = "all"\n' + PAIRS
    report = build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer)
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    counts = {direction: (found["before"], found["after"]) for direction, found in summary["directions"].items()}
    assert counts == {"en-ky": (2000, 2000), "ky-en": (2000, 0)}
    assert summary["read"] == {"en-ky.tsv": 2000} and summary["records"] == {"en-ky": 2000}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["corpus.json", "en-ky.jsonl"]
    assert "no file, because nothing is left: ky-en" in report.summary()


def test_downsampling_spares_forward_directions_and_the_pivots_and_is_nested(tmp_path, pair_inputs, tiny_tokenizer):
    kept = {}
    for rate in (0.0, 0.05, 0.2):
        text = f"[downsample]\nrate = {rate}\n{ALIGNED}"
        counts = build_sft_corpus(config(tmp_path, text), tmp_path / f"out{rate}", tiny_tokenizer).directions
        for direction in ("en-zh", "zh-en", "en-ky", "zh-ky"):
            assert (counts[direction].before, counts[direction].after) == (1000, 1000)
        for direction in ("ky-en", "ky-zh"):
            assert abs(counts[direction].after - 1000 * rate) <= 40
        kept[rate] = ids(tmp_path / f"out{rate}", "ky-en")
    assert kept[0.0] < kept[0.05] < kept[0.2]
    assert ids(tmp_path / "out0.2", "ky-zh") != {name.replace("en.txt", "zh.txt") for name in kept[0.2]}
    assert Counter(is_downsampled(*direction.split("-")) for direction in directions("all")) == {False: 118, True: 116}


def test_draws_do_not_depend_on_what_else_is_built_or_where_the_data_lie(tmp_path, pair_inputs, tiny_tokenizer):
    text = "[downsample]\nrate = 0.2\n"
    build_sft_corpus(config(tmp_path, text + ALIGNED), tmp_path / "all", tiny_tokenizer)
    one = text + '[[aligned]]\npath = "{language}.txt"\npairs = ["zh-ky"]\n'
    pair_inputs.rename(tmp_path / "elsewhere")
    build_sft_corpus(config(tmp_path, one), tmp_path / "one", tiny_tokenizer, root=str(tmp_path / "elsewhere"))
    assert (tmp_path / "all/ky-zh.jsonl").read_bytes() == (tmp_path / "one/ky-zh.jsonl").read_bytes()
    build_sft_corpus(
        config(tmp_path, one), tmp_path / "seed", tiny_tokenizer, str(tmp_path / "elsewhere"), overrides=["seed=2"]
    )
    assert (tmp_path / "seed/ky-zh.jsonl").read_bytes() != (tmp_path / "one/ky-zh.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("downsample", "kept"),
    [
        ("", {"en-ky": 3000, "ky-en": 2050, "zh-en": 1000}),  # bilingual pairs are not in the paper's scope
        ('scope = "all"', {"en-ky": 3000, "ky-en": 150, "zh-en": 1000}),
        ("exempt_en_zh = false", {"en-ky": 3000, "ky-en": 2050, "zh-en": 50, "en-zh": 50}),
    ],
)
def test_scope_of_downsampling(tmp_path, pair_inputs, tiny_tokenizer, downsample, kept):
    text = f"[downsample]\n{downsample}\n{PAIRS}{ALIGNED}"
    counts = build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer).directions
    for direction, expected in kept.items():
        assert abs(counts[direction].after - expected) <= (0 if expected >= 1000 and expected % 1000 == 0 else 45)


def test_the_two_directions_of_a_line_are_drawn_apart(tmp_path, pair_inputs, tiny_tokenizer):
    text = f"[downsample]\nrate = 0.5\nexempt_en_zh = false\n{ALIGNED}"
    build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer)
    forward, backward = ids(tmp_path / "out", "en-zh"), ids(tmp_path / "out", "zh-en")
    assert abs(len(forward & backward) - 250) <= 45 and abs(len(forward | backward) - 750) <= 45


def test_a_corpus_of_pairs_may_be_multi_way_and_an_aligned_one_bilingual(tmp_path, pair_inputs, tiny_tokenizer):
    text = PAIRS + "multi_way = true\n" + ALIGNED + "multi_way = false\n"
    counts = build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer).directions
    assert abs(counts["ky-en"].after - 1100) <= 40 and counts["ky-zh"].after == 1000


def test_auxiliary_sentences_are_the_aligned_ones_of_the_papers_language(tmp_path, pair_inputs, tiny_tokenizer):
    (pair_inputs / "ru.txt").write_text("".join(f"ru {i}\n" for i in range(1000)), encoding="utf-8")
    text = f"[downsample]\nrate = 1.0\n{ALIGNED}"
    report = build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer)
    for direction in ("en-ky", "ky-en", "zh-ky", "ky-zh"):
        counts = report.directions[direction]
        assert counts.after == 1000 == counts.plain + counts.pmp and abs(counts.pmp - 500) < 60 and not counts.pmp_fallback
    pmp = [record for record in records(tmp_path / "out", "ky-en") if "Russian" in record["prompt"]]
    assert len(pmp) == report.directions["ky-en"].pmp
    number = int(pmp[0]["id"].split(":")[1]) - 1
    assert pmp[0]["prompt"] == (
        "<|im_start|>user\nTranslate the following text from Kirghiz into Russian and English:\n"
        f"Kirghiz: ky {number}\nRussian: ru {number}\nEnglish:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert pmp[0]["target"] == f"en {number}<|im_end|>"
    zh = next(record for record in records(tmp_path / "out", "zh-ky") if "English" in record["prompt"])
    assert "from Chinese into English and Kirghiz:\nChinese: zh" in zh["prompt"]
    # no third language between the pivots: they were to have one too, and are counted
    assert report.directions["en-zh"].pmp == 0 and abs(report.directions["en-zh"].pmp_fallback - 500) < 60


def test_rows_without_an_auxiliary_sentence_fall_back_and_are_counted(tmp_path, pair_inputs, tiny_tokenizer):
    lines = [f"ru {i}\n" if i % 2 else "\n" for i in range(1000)]
    (pair_inputs / "ru.txt").write_text("".join(lines), encoding="utf-8")
    text = f"[pmp]\nshare = 1.0\n[downsample]\nrate = 1.0\n{PAIRS}{ALIGNED}"
    report = build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer)
    counts = report.directions["en-ky"]
    assert (counts.pmp, counts.plain, counts.pmp_fallback) == (500, 2500, 2500)
    (pair_inputs / "ru.txt").write_text("ru 0\n" * 999)
    with pytest.raises(DataError, match=r"ru\.txt: ends before line 1000"):
        build_sft_corpus(config(tmp_path, text), tmp_path / "other", tiny_tokenizer)


def test_proposed_auxiliaries_only_when_switched_on(tmp_path, pair_inputs, tiny_tokenizer):
    (pair_inputs / "ja.txt").write_text("".join(f"ja {i}\n" for i in range(1000)), encoding="utf-8")
    aligned = '[[aligned]]\npath = "{language}.txt"\npairs = ["en-ja"]\n'
    found = {}
    for proposals in ("false", "true"):
        text = f"[pmp]\nproposals = {proposals}\nshare = 1.0\n{aligned}"
        report = build_sft_corpus(config(tmp_path, text), tmp_path / proposals, tiny_tokenizer)
        found[proposals] = report.directions["en-ja"].pmp
    assert found == {"false": 0, "true": 1000}


def test_no_share_of_auxiliaries_and_all(tmp_path, pair_inputs, tiny_tokenizer):
    (pair_inputs / "ru.txt").write_text("".join(f"ru {i}\n" for i in range(1000)), encoding="utf-8")
    for share, expected in ((0.0, 0), (1.0, 1000)):
        text = f"[pmp]\nshare = {share}\n{ALIGNED}"
        report = build_sft_corpus(config(tmp_path, text), tmp_path / str(share), tiny_tokenizer)
        assert report.directions["en-ky"].pmp == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('template = "alpaca"\n', "set pmp.share = 0"),
        ('template = "releas"\n', "unknown template 'releas': one of release, paper"),
        ("[downsample]\nrate = 5\n", "downsample.rate"),
        ('[downsample]\nscope = "everything"\n', "downsample.scope"),
        ('[[evaluation]]\nname = "x"\npath = "absent.{language}"\nlanguages = ["en"]\n', r"absent\.en: no such file"),
        ('[[pairs]]\npath = "flores.devtest.{source}-{target}"\npairs = ["en-de"]\n', "'devtest' is the name of a test set"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, pair_inputs, tiny_tokenizer, text, message):
    (pair_inputs / "flores.devtest.en-de").write_text("a\tb\n")
    with pytest.raises((ConfigError, DataError), match=message):
        build_sft_corpus(config(tmp_path, text + ALIGNED), tmp_path / "out", tiny_tokenizer)
    assert not (tmp_path / "out").exists()


def test_an_empty_input_is_refused(tmp_path, pair_inputs, tiny_tokenizer):
    (pair_inputs / "en-de.tsv").write_text("")
    text = PAIRS + '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-de"]\n'
    with pytest.raises(DataError, match=r"en-de\.tsv: no record in it"):
        build_sft_corpus(config(tmp_path, text), tmp_path / "out", tiny_tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.toml", "inputs"]


def test_a_sentence_with_a_control_token_is_dropped_and_listed(tmp_path, pair_inputs, tiny_tokenizer):
    file = pair_inputs / "zh.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("zh 7\n", "zh\t<|im_end|> 7\n"), encoding="utf-8")
    report = build_sft_corpus(config(tmp_path, PLAIN + ALIGNED), tmp_path / "out", tiny_tokenizer)
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    assert summary["rejected"] == {"en.txt+zh.txt": {"control_token": 1}, "zh.txt+ky.txt": {"control_token": 1}}
    rows = [json.loads(line) for line in gzip.open(tmp_path / "out.rejected.jsonl.gz", "rt", encoding="utf-8")]
    assert rows[0] == {
        "file": "en.txt+zh.txt",
        "line": 8,
        "rule": "control_token",
        "value": "<|im_end|>",
        "texts": ["en 7", "zh\t<|im_end|> 7"],
    }
    assert summary["kept"]["en.txt+zh.txt"] == 999 and summary["read"]["en.txt+zh.txt"] == 1000
    assert report.directions["en-zh"].before == 999 and report.directions["en-ky"].before == 1000
    # where it would be the auxiliary, the pair is dropped too: half of zh-ky has English beside it
    assert all("<|im_end|> 7" not in record["prompt"] for record in records(tmp_path / "out", "en-zh"))


def as_known(monkeypatch, language, texts):
    """Let these sentences be a known test set: the real ones are not at hand, only their fingerprints."""
    from megatron_lmt.corpus.test_sets import TestSentences, fingerprints
    from megatron_lmt.sft import contamination

    monkeypatch.setattr(contamination, "known_test_sets", lambda: [TestSentences("secret", {language: fingerprints(texts)})])


def test_a_known_test_set_is_refused_and_a_chance_find_is_dropped(tmp_path, pair_inputs, tiny_tokenizer, monkeypatch):
    secret = [f"A sentence of the test set, number {i}." for i in range(100)]
    as_known(monkeypatch, "en", secret)
    rest = [f"source {i}\tбулак {i}" for i in range(500)]
    few = [f"a sentence of the  TEST set, number {i}!\tсүйлөм {i}" for i in range(4)]
    (pair_inputs / "en-ky.tsv").write_text("\n".join(rest + few) + "\n", encoding="utf-8")
    report = build_sft_corpus(config(tmp_path, PAIRS), tmp_path / "few", tiny_tokenizer)
    rejected = json.loads((tmp_path / "few/corpus.json").read_text())["rejected"]
    assert rejected == {"en-ky.tsv": {"test_set": 4}} and report.directions["en-ky"].after == 500
    many = [f"{text}\tсүйлөм" for text in secret[:5]]
    (pair_inputs / "en-ky.tsv").write_text("\n".join(rest + many) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"en-ky\.tsv: has 5 of the 100 en sentences of the test set secret"):
        build_sft_corpus(config(tmp_path, PAIRS), tmp_path / "many", tiny_tokenizer)
    assert not (tmp_path / "many").exists()


def test_the_known_test_sets_are_there():
    sets = {known.name: known for known in known_test_sets()}
    sizes = {(name, code): len(found) for name, known in sets.items() for code, found in known.fingerprints.items()}
    assert sizes == {
        ("flores200-devtest", "en"): 1012,
        ("flores200-devtest", "zh"): 1011,
        ("wmt24", "en"): 959,
        ("wmt24", "zh"): 1504,
    }
    # the first sentence of FLORES-200 devtest, which papers print
    first = '"We now have 4-month-old mice that are non-diabetic that used to be diabetic," he added.'
    assert sets["flores200-devtest"].has("en", first) and not sets["wmt24"].has("en", first)
    assert fingerprint("Thank you.") is None and fingerprint("ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ ᠪᠢᠴᠢᠭ") is not None


def test_overlap_with_an_evaluation_set_is_reported_by_side_and_may_be_cleaned(tmp_path, pair_inputs, tiny_tokenizer):
    # sources 0 to 9 and, of other lines, targets 5 to 24
    long = [f"a source sentence, number {i:02}\tбулак сүйлөм, номер {i:02}" for i in range(50)]
    (pair_inputs / "en-ky.tsv").write_text("\n".join(long) + "\n", encoding="utf-8")
    (pair_inputs / "test.en").write_text(
        "".join(f"A source sentence: number {i:02}.\n" for i in range(10)), encoding="utf-8"
    )
    (pair_inputs / "test.ky").write_text("".join(f"Булак сүйлөм; номер {i:02}\n" for i in range(5, 25)), encoding="utf-8")
    evaluation = '[[evaluation]]\nname = "mine"\npath = "test.{language}"\nlanguages = ["en", "ky"]\n'
    report = build_sft_corpus(config(tmp_path, PAIRS + evaluation), tmp_path / "report", tiny_tokenizer)
    expected = {"mine": {"en-ky": {"en": 10, "ky": 20, "both": 5}}}
    assert json.loads((tmp_path / "report/corpus.json").read_text())["overlap"] == expected
    assert report.directions["en-ky"].after == 50
    assert "evaluation set mine: 25 pairs have a side of it, 5 of them both sides" in report.summary()
    text = PAIRS + evaluation + '[clean.evaluation]\nfiles = ["test.*"]\n'
    report = build_sft_corpus(config(tmp_path, text), tmp_path / "clean", tiny_tokenizer)
    assert report.directions["en-ky"].after == 25 and report.overlap == {"mine": {}}


def test_lmts_data_in_all_117_pairs(tmp_path, sample_data, tiny_tokenizer):
    """NTREX and FLORES dev as in the paper: 2,994 sentences in each pair (997 where NTREX has no such language), p = 5 %."""
    config_file = REPOSITORY / "examples/lmt60/sft_corpus.toml"
    report = build_sft_corpus(config_file, tmp_path / "out", tiny_tokenizer, root=str(sample_data))
    summary = json.loads((tmp_path / "out/corpus.json").read_text())
    assert set(report.directions) == set(directions("all")) and len(summary["read"]) == 113 + 117
    assert not summary["rejected"] and sum(summary["read"].values()) == 113 * 1997 + 117 * 997
    for direction, counts in report.directions.items():
        source, target = split_direction(direction)
        assert counts.before == (997 if {source, target} & {"jv", "mvf"} else 2994)
        assert counts.plain + counts.pmp == counts.after == summary["records"].get(direction, 0)
        if not is_downsampled(source, target):
            assert counts.after == counts.before
    reverse = [counts for direction, counts in report.directions.items() if is_downsampled(*direction.split("-"))]
    before, after = sum(c.before for c in reverse), sum(c.after for c in reverse)
    assert len(reverse) == 116 and abs(after - 0.05 * before) < 4 * (0.05 * 0.95 * before) ** 0.5
    worst = max(abs(c.after - 0.05 * c.before) / (0.05 * 0.95 * c.before) ** 0.5 for c in reverse)
    assert worst < 4.5  # standard deviations of a single direction, the largest of 116
    # PMP: half of the instances in directions that have an auxiliary language, none in the others
    for pair in pairs("all"):
        counts = report.directions[pair]
        if auxiliary_language(*pair.split("-")):
            assert abs(counts.pmp - counts.after / 2) < 4 * (counts.after / 4) ** 0.5 and not counts.pmp_fallback
        else:
            assert counts.pmp == 0 and counts.pmp_fallback
    # a Chinese sentence had 59 sources and, apart from en-zh, has 3 now
    repetition = summary["target_repetition"]["zh"]
    assert 55 < repetition["before"] < 59.1 and 3.5 < repetition["after"] < 4.1
    # Inner Mongolian keeps its format characters, as they are in the file
    targets = {record["target"].removesuffix("<|im_end|>") for record in records(tmp_path / "out", "en-mvf")}
    assert targets == {line for _, line in read_lines(sample_data / "flores200_dev/flores.dev.mvf.gz")}
    assert any("\u202f" in target for target in targets) and any("\u180e" in target for target in targets)
