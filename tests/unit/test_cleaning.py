"""Cleaning in the corpus builders: every rule from the TOML file to the records that are kept beside the output."""

import gzip
import json
import subprocess
import sys
from itertools import combinations

import pytest

from megatron_lmt.corpus import evaluation_overlap, test_sets
from megatron_lmt.corpus.clean_config import CleanSection
from megatron_lmt.corpus.clean_rules import letters, weighted_length
from megatron_lmt.corpus.cpt import CptConfig, build_cpt_corpus
from megatron_lmt.corpus.duplicates import SeenHashes
from megatron_lmt.corpus.files import pair_files, text_files
from megatron_lmt.corpus.quality import best_share_threshold
from megatron_lmt.errors import ConfigError, DataError, UserError
from megatron_lmt.languages import languages, pairs
from megatron_lmt.sft.corpus import build_sft_corpus
from megatron_lmt.toml_config import load_toml, validate
from tests.conftest import LINES, REPOSITORY

GOOD = [
    ("The house by the river was sold last week.", "Das Haus am Fluss wurde letzte Woche verkauft."),
    ("Nobody knew where the children had gone.", "Niemand wusste, wohin die Kinder gegangen waren."),
    ("She has been working in this hospital for ten years.", "Sie arbeitet seit zehn Jahren in diesem Krankenhaus."),
    ("We will meet again in front of the station tomorrow.", "Wir treffen uns morgen wieder vor dem Bahnhof."),
    ("The committee spoke for two hours about water and bread.", "Der Ausschuss sprach zwei Stunden über Wasser und Brot."),
]
PAIRS = '[[pairs]]\npath = "{source}-{target}.tsv"\npairs = ["en-de"]\n'


@pytest.fixture
def build(tmp_path):
    """Builds from `<name> → text` with a TOML text; gives the report and the rejected records."""

    def run(toml, files, builder=build_cpt_corpus, *arguments):
        for name, content in files.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / "corpus.toml").write_text(toml, encoding="utf-8")
        builder(tmp_path / "corpus.toml", tmp_path / "out", *arguments)
        report = json.loads((tmp_path / "out/corpus.json").read_text())
        for name, lines in report["read"].items():
            assert lines == report["kept"][name] + sum(report["rejected"].get(name, {}).values())
        rejected = tmp_path / "out.rejected.jsonl.gz"
        return report, read_jsonl(gzip.decompress(rejected.read_bytes()).decode()) if rejected.exists() else []

    return run


def read_jsonl(text):
    return [json.loads(line) for line in text.split("\n")[:-1]]


def tsv(*rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def texts_of(path):
    return [record["text"] for record in read_jsonl(path.read_text(encoding="utf-8"))]


def sentences(sample_data, code):
    file = sample_data / "flores200_dev" / f"flores.dev.{code}.gz"
    return gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[:-1]


@pytest.mark.parametrize(
    ("clean", "bad", "rule", "value"),
    [
        ("min_characters = 4", ("Yes.", "Ja."), "too_short", 3),
        ("max_characters = 60", ("short", "x" * 61), "too_long", 61),
        ("max_length_ratio = 3.0", ("One two three.", "Eins."), None, None),
        ("max_length_ratio = 3.0", ("No, nobody here.", "Nein."), "length_ratio", 3.2),
        ("untranslated = true", ("Read MORE  here!", "read more here"), "untranslated", "readmorehere"),
        ("untranslated = true", ("12:30 — 14:00", "12.30-14.00"), "untranslated", "12301400"),
    ],
)
def test_rules_of_one_pair(build, clean, bad, rule, value):
    report, rejected = build(f"[clean]\n{clean}\n{PAIRS}", {"en-de.tsv": tsv(GOOD[0], bad, *GOOD[1:])})
    if rule is None:
        assert report["rejected"] == {} and rejected == [] and report["kept"] == {"en-de.tsv": 6}
    else:
        assert rejected == [{"file": "en-de.tsv", "line": 2, "rule": rule, "value": value, "texts": list(bad)}]
        assert report["rejected"] == {"en-de.tsv": {rule: 1}} and report["kept"] == {"en-de.tsv": 5}


def test_chinese_characters_weigh_three_and_hangul_two():
    assert weighted_length("ab 中文") == 3 + 6
    assert weighted_length("カタ한국") == 6 + 4
    assert weighted_length("ສະບາຍດີ") == 7


def test_true_translations_of_117_pairs_pass_the_length_ratio(sample_data):
    lengths = {code: list(map(weighted_length, sentences(sample_data, code))) for code in languages()}
    shares = {}
    for pair in pairs("all"):
        both = list(zip(*(lengths[code] for code in pair.split("-")), strict=True))
        shares[pair] = sum(max(lines) > 3 * min(lines) for lines in both) / len(both)
    assert max(shares.values()) < 0.02 and sum(shares.values()) / len(shares) < 0.0005


def test_languages_confident_in_high_resource_and_most_probable_in_low(build):
    pytest.importorskip("py3langid", reason="needs the extra: pip install -e '.[clean]'")
    bad = [("The house was sold last week by the river.", "The house by the river was sold."), ("Ok", "Ja, ok.")]
    report, rejected = build(f"[clean.language]\n{PAIRS}", {"en-de.tsv": tsv(*GOOD, *bad)})
    assert report["rejected"] == {"en-de.tsv": {"language": 2}}
    first, second = (record["value"] for record in rejected)
    assert (first["expected"], first["found"]) == ("de", "en") and first["confidence"] > 0.5
    assert second["expected"] == "en" and second["confidence"] < 0.5


def test_another_language_may_be_accepted_too(build):
    pytest.importorskip("py3langid", reason="needs the extra: pip install -e '.[clean]'")
    toml = f'[clean.language]\nalso = {{ de = ["en"] }}\n{PAIRS}'
    report, _ = build(toml, {"en-de.tsv": tsv(*GOOD, ("He is at home today.", "The house by the river was sold."))})
    assert report["rejected"] == {}


EVERYTHING = """
[clean]
min_characters = 2
max_characters = 2000
max_length_ratio = 3.0
untranslated = true
language = {}
duplicates = { match = "letters" }
near_duplicates = {}
evaluation = { files = ["evaluation.txt"] }
[[monolingual]]
path = "{language}.txt"
languages = "all"
[[aligned]]
path = "{language}.txt"
pairs = ["en-mvf", "zh-fa", "en-si"]
"""


def test_real_text_of_60_languages_comes_through_byte_for_byte(build, tmp_path, sample_data):
    """With all rules on most lines of each language stay, and what stays is unchanged; so is what is rejected."""
    for library in ("py3langid", "rensa"):
        pytest.importorskip(library, reason="needs the extra: pip install -e '.[clean]'")
    texts = {code: sentences(sample_data, code)[:20] for code in languages()}
    files = {f"{code}.txt": "\n".join(lines) + "\n" for code, lines in texts.items()}
    report, rejected = build(EVERYTHING, {**files, "evaluation.txt": "A sentence that is nowhere in the corpus.\n"})
    hard = {"id.txt": 10, "ms.txt": 10}
    assert {name: kept for name, kept in report["kept"].items() if kept < hard.get(name, 17)} == {}
    lost = {(record["file"], record["line"]): record["texts"] for record in rejected}
    for code, lines in texts.items():
        expected = [line for number, line in enumerate(lines, 1) if (f"{code}.txt", number) not in lost]
        assert texts_of(tmp_path / f"out/mono.{code}.jsonl") == expected
        assert all(lost.get((f"{code}.txt", number), [line]) == [line] for number, line in enumerate(lines, 1))
    for source, target in (("en", "mvf"), ("zh", "fa"), ("en", "si")):
        documents = {
            f"<{one}2{other}> {texts[one][line]} <{other}> {texts[other][line]}"
            for one, other in ((source, target), (target, source))
            for line in range(20)
        }
        both = [*texts_of(tmp_path / f"out/{source}-{target}.jsonl"), *texts_of(tmp_path / f"out/{target}-{source}.jsonl")]
        assert len(both) >= 17 and set(both) <= documents
    kept = "".join(texts_of(tmp_path / "out/mono.mvf.jsonl"))
    assert kept.count("\u202f") > 100 and kept.count("\u180e") > 15
    assert "\u200c" in "".join(texts_of(tmp_path / "out/mono.fa.jsonl"))
    assert "\u200d" in "".join(texts_of(tmp_path / "out/mono.si.jsonl"))


def test_words_that_differ_in_vowel_signs_alone_are_not_equal():
    assert letters("कि") != letters("की") and letters("ที") != letters("ที่")
    assert letters("\u1820\u202f\u180e\u1821!") == letters("\u1820\u1821") and letters("می‌شود") == letters("میشود")


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ("{}", [2]),
        ('{ match = "letters" }', [2, 3]),
        ('{ by = "source" }', [2, 4]),
        ('{ by = "target" }', [2, 5]),
        ('{ match = "letters", by = "source", cache_mb = 1 }', [2, 3, 4]),
    ],
)
def test_equal_pairs(build, options, copies):
    source, target = GOOD[0]
    rows = [GOOD[0], GOOD[0], (source.upper(), target + "!"), (source, "Ein anderer Satz."), ("Another sentence.", target)]
    report, rejected = build(f"[clean]\nduplicates = {options}\n{PAIRS}", {"en-de.tsv": tsv(*rows, *GOOD[1:])})
    assert [record["line"] for record in rejected] == copies
    assert {record["value"] for record in rejected} == {"en-de.tsv:1"}


def test_a_pair_is_a_duplicate_in_either_orientation_and_from_any_file(build):
    toml = "[clean.duplicates]\n" + PAIRS + '[[aligned]]\npath = "{language}.txt"\npairs = ["de-en", "en-fr"]\n'
    english, german = ("".join(f"{pair[side]}\n" for pair in GOOD) for side in (0, 1))
    files = {"en-de.tsv": tsv(*GOOD[1:]), "en.txt": english, "de.txt": german, "fr.txt": german}
    report, rejected = build(toml, files)
    assert report["kept"] == {"en-de.tsv": 4, "de.txt+en.txt": 1, "en.txt+fr.txt": 5}
    assert {record["value"] for record in rejected} == {f"en-de.tsv:{line}" for line in (1, 2, 3, 4)}


def test_what_another_rule_rejects_makes_no_duplicate_of_a_later_record(build):
    toml = f'[clean]\nmax_length_ratio = 3.0\nduplicates = {{ by = "source" }}\n{PAIRS}'
    report, rejected = build(toml, {"en-de.tsv": tsv((GOOD[0][0], "Das."), *GOOD)})
    assert [(record["line"], record["rule"]) for record in rejected] == [(1, "length_ratio")]


def test_similar_pairs_only_where_both_sides_are_similar(build):
    pytest.importorskip("rensa", reason="needs the extra: pip install -e '.[clean]'")
    source, target = (side + " " + " ".join(pair[index] for pair in GOOD[1:]) for index, side in enumerate(GOOD[0]))
    both = (source.replace("tomorrow", "today"), target.replace("morgen", "heute"))
    one_side = (source.replace("ten years", "11 years"), "Etwas ganz anderes steht auf der anderen Seite.")
    toml = f"[clean.near_duplicates]\nthreshold = 0.8\n{PAIRS}"
    report, rejected = build(toml, {"en-de.tsv": tsv((source, target), both, one_side, *GOOD)})
    assert [(record["line"], record["rule"]) for record in rejected] == [(2, "near_duplicate")]
    assert rejected[0]["value"]["of"] == "en-de.tsv:1" and 0.8 <= rejected[0]["value"]["similarity"] < 1


def test_similar_documents_in_languages_without_spaces(build, sample_data):
    pytest.importorskip("rensa", reason="needs the extra: pip install -e '.[clean]'")
    lines = ["".join(part) for part in zip(*[iter(sentences(sample_data, "th")[:30])] * 3, strict=True)]
    changed = [line[:40] + line[46:] for line in lines]
    toml = '[clean.near_duplicates]\n[[monolingual]]\npath = "{language}.txt"\nlanguages = ["th"]\n'
    report, rejected = build(toml, {"th.txt": "\n".join(lines + changed) + "\n"})
    assert [record["value"]["of"] for record in rejected] == [f"th.txt:{line}" for line in range(1, 11)]


def test_sentences_of_evaluation_sets_by_source_and_target_and_inside_documents(build):
    files = {
        "set.en.txt": f"{GOOD[0][0]}\n\nShort one.\n",
        "set.de.txt.gz.jsonl": json.dumps({"text": GOOD[1][1]}) + "\n",
        "set.tsv": f"id7\t{LINES[5]}\n",
        "en-de.tsv": tsv(*GOOD[:3], ("short ONE", "Kurz."), ("A short one.", "Ein kurzer."), *GOOD[3:]),
        "zh.txt": f"{LINES[0]}\n前面的话。{LINES[5]}后面的话。\n",
    }
    mono = '[[monolingual]]\npath = "{language}.txt"\nlanguages = ["zh"]\n'
    report, rejected = build(f'[clean.evaluation]\nfiles = ["set.*"]\n{PAIRS}{mono}', files)
    assert [(record["file"], record["line"], record["rule"]) for record in rejected] == [
        ("zh.txt", 2, "evaluation"),
        ("en-de.tsv", 1, "evaluation_source"),
        ("en-de.tsv", 2, "evaluation_target"),
        ("en-de.tsv", 4, "evaluation_source"),
    ]
    assert [record["value"].rpartition("/")[2] for record in rejected] == [
        "set.tsv:1",
        "set.en.txt:1",
        "set.de.txt.gz.jsonl:1",
        "set.en.txt:3",
    ]


def test_known_test_sets_are_looked_for_unless_turned_off(build, monkeypatch):
    of_set = {"en": [GOOD[2][0]], "de": [GOOD[3][1], GOOD[4][1]]}
    known = test_sets.TestSentences("wmt99", {code: test_sets.fingerprints(texts) for code, texts in of_set.items()})
    monkeypatch.setattr(evaluation_overlap, "known_test_sets", lambda: [known])
    files = {"en-de.tsv": tsv(*GOOD)}
    report, rejected = build(f"seed = 1\n[clean.evaluation]\n{PAIRS}", files)
    assert [(record["line"], record["rule"], record["value"]) for record in rejected] == [
        (3, "evaluation_source", "wmt99"),
        (4, "evaluation_target", "wmt99"),
        (5, "evaluation_target", "wmt99"),
    ]


def test_evaluation_must_name_something(build):
    with pytest.raises(ConfigError, match="names nothing to look for"):
        build(f"[clean.evaluation]\nknown_test_sets = false\n{PAIRS}", {})


def scored(*scores):
    return [(*pair, score) for pair, score in zip(GOOD, scores, strict=True)]


def test_quality_by_threshold_of_a_column(build):
    toml = f"[clean.quality]\ncolumn = 3\nthreshold = 0.5\n{PAIRS}"
    report, rejected = build(toml, {"en-de.tsv": tsv(*scored(0.1, 0.5, -3, 0.9, "4e-1"))})
    assert [(record["line"], record["rule"], record["value"]) for record in rejected] == [
        (1, "quality", 0.1),
        (3, "quality", -3.0),
        (5, "quality", 0.4),
    ]


def test_quality_by_best_share_of_each_pair_from_files_of_scores(build):
    (_, german), french = zip(*GOOD, strict=True), [f"{pair[1]} (fr)" for pair in GOOD]
    files = {"en.txt": "\n".join(pair[0] for pair in GOOD) + "\n", "de.txt": "\n".join(german) + "\n"}
    files |= {"fr.txt": "\n".join(french) + "\n", "en-de.scores": "5\n4\n3\n2\n1\n", "en-fr.scores": ".1\n.2\n.3\n.4\n.5\n"}
    toml = """
seed = 8  # so that each pair has a record in both directions
[clean]
max_characters = 59
quality = { scores = "{source}-{target}.scores", best_share = 0.6 }
[[aligned]]
path = "{language}.txt"
pairs = ["en-de", "en-fr"]
"""
    report, rejected = build(toml, files)
    assert [(record["file"], record["line"]) for record in rejected if record["rule"] == "quality"] == [
        ("en.txt+de.txt", 4),
        ("en.txt+de.txt", 5),
        ("en.txt+fr.txt", 1),
        ("en.txt+fr.txt", 2),
    ]


@pytest.mark.parametrize(("share", "least"), [(0.01, 9), (0.25, 7), (0.5, 5), (1.0, 0)])
def test_best_share(share, least):
    assert best_share_threshold(iter([float(n) for n in (3, 9, 1, 0, 5, 7, 2, 8, 6, 4)]), share) == least


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, 0.9, "good", 0.5, 0.5], r"en-de\.tsv:3: column 3 is 'good', not a number"),
        ([0.1, 0.9, "nan", 0.5, 0.5], r"en-de\.tsv:3: column 3 is 'nan', not a number"),
        ([0.1, 0.9, "", 0.5, 0.5], r"en-de\.tsv:3: column 3 is '', not a number"),
    ],
)
def test_a_score_that_is_no_number(build, tmp_path, scores, message):
    with pytest.raises(DataError, match=message):
        build(f"[clean.quality]\ncolumn = 3\nthreshold = 0.5\n{PAIRS}", {"en-de.tsv": tsv(*scored(*scores))})
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.rejected.jsonl.gz").exists()


@pytest.mark.parametrize(
    ("scores", "message"),
    [("1\n" * 4, "en-de.scores: no score for en-de.tsv:5"), ("1\n" * 6, "en-de.scores: 6 scores for 5 lines of text")],
)
def test_scores_of_another_file(build, scores, message):
    toml = f'[clean.quality]\nscores = "{{source}}-{{target}}.scores"\nthreshold = 0.5\n{PAIRS}'
    with pytest.raises(UserError, match=message):
        build(toml, {"en-de.tsv": tsv(*GOOD), "en-de.scores": scores})


def test_a_source_has_its_own_values_and_is_spared_rules(build):
    toml = """
[clean]
min_characters = 10
max_length_ratio = 1.5
[[pairs]]
path = "{source}-{target}.tsv"
pairs = ["en-de"]
clean = { min_characters = 3, off = ["max_length_ratio"] }
[[pairs]]
path = "{source}-{target}.tsv"
pairs = ["en-fr"]
[[monolingual]]
path = "{language}.txt"
languages = ["de"]
clean = { min_characters = 5 }
"""
    rows = tsv(*GOOD, ("Yes, he was there.", "Ja."), ("no", "nein"))
    report, _ = build(toml, {"en-de.tsv": rows, "en-fr.tsv": rows, "de.txt": "Nein.\nJa.\n"})
    assert report["rejected"] == {
        "de.txt": {"too_short": 1},
        "en-de.tsv": {"too_short": 1},
        "en-fr.tsv": {"too_short": 2},
    }


def test_fine_tuning_reads_the_same_rules(build, tiny_tokenizer, tmp_path):
    rows = tsv(*GOOD, ("Yes.", "Ja, das ist ganz sicher so."))
    report, rejected = build(
        f"[clean]\nmax_length_ratio = 3\n{PAIRS}[pmp]\nshare = 0.0\n", {"en-de.tsv": rows}, build_sft_corpus, tiny_tokenizer
    )
    assert report["directions"]["en-de"]["before"] == 5 and report["kept"] == {"en-de.tsv": 5}
    assert [record["rule"] for record in rejected] == ["length_ratio"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[clean]\nmax_ratio = 3.0\n", r"clean\.max_ratio: unknown key"),
        ("[clean]\nmax_length_ratio = 0.5\n", r"clean\.max_length_ratio: .*greater than 1"),
        ('[clean]\noff = ["language"]\n', r"clean\.off: unknown key"),
        ("[clean.quality]\ncolumn = 3\n", "either threshold or best_share"),
        ('[clean.quality]\ncolumn = 3\nscores = "{source}-{target}"\nthreshold = 1.0\n', "either column or scores"),
        ('[clean.quality]\nscores = "all.txt"\nthreshold = 1.0\n', "names one file for several sources"),
        ('[clean.language]\nalso = { xx = ["en"] }\n', "unknown language code 'xx'"),
        (
            '[[pairs]]\npath = "{source}"\npairs = ["en-de"]\nclean = { off = ["ratio"] }\n',
            "no rules here: ratio; there are min",
        ),
        (
            '[[monolingual]]\npath = "{language}"\nlanguages = ["de"]\nclean = { max_length_ratio = 3.0 }\n',
            r"monolingual\.0\.clean\.max_length_ratio: unknown key",
        ),
    ],
)
def test_a_wrong_table_is_refused(build, toml, message):
    with pytest.raises(ConfigError, match=message):
        build(toml, {})


def test_the_documented_config_is_valid_and_names_every_rule(tmp_path):
    text = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "corpus.toml").write_text(text, encoding="utf-8")
    config = validate(CptConfig, load_toml(tmp_path / "corpus.toml"), "docs/data.md")
    assert config.clean.model_fields_set == set(CleanSection.model_fields)
    assert {text.clean.max_characters for text in text_files(config.monolingual, config.clean, tmp_path)} == {1_000_000}
    for files in pair_files(config, tmp_path):
        assert (files.clean.max_characters, files.clean.quality) == (2000, None)
        assert files.clean.max_length_ratio == 3.0


def test_missing_files_are_all_named_before_work(build, tmp_path):
    toml = f"""
[clean]
evaluation = {{ files = ["nothing.*", "en-de.tsv"] }}
quality = {{ scores = "{{source}}-{{target}}.scores", threshold = 0.5 }}
{PAIRS}
[[aligned]]
path = "{{language}}.txt"
pairs = ["en-fr"]
clean = {{ quality = {{ column = 3, threshold = 0.5 }}, off = ["evaluation"] }}
"""
    text = "\n".join(LINES) + "\n"
    with pytest.raises(UserError) as caught:
        build(toml, {"en-de.tsv": tsv(*GOOD), "en.txt": text, "fr.txt": text})
    named = ["clean.evaluation.files", "clean.quality.scores", "clean.quality.column"]
    assert [problem.partition(":")[0] for problem in caught.value.problems] == named
    assert not (tmp_path / "out.unfinished").exists()


def test_an_input_of_which_nothing_is_left_is_an_error(build, tmp_path):
    with pytest.raises(UserError, match=r"en-de\.tsv: all 5 records were rejected \(too_short 5\)"):
        build(f"[clean]\nmin_characters = 100\n{PAIRS}", {"en-de.tsv": tsv(*GOOD)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_input_of_which_nothing_is_left_stops_the_work_there(build, workers):
    """The next input, which has a bad line, is not read to its end."""
    toml = """
[clean]
max_characters = 60
[[monolingual]]
path = "{language}.txt"
languages = ["en", "de"]
"""
    lines = [f"Zeile {n}" for n in range(3000)]
    files = {"en.txt": f"{LINES[0]}\n{LINES[1]}\n", "de.txt": "\n".join([*lines, "", "Ende"]) + "\n"}
    with pytest.raises(UserError, match=r"en\.txt: all 2 records were rejected \(too_long 2\)"):
        build(toml, files, build_cpt_corpus, None, workers)
    files["en.txt"] += "Short.\n"
    with pytest.raises(UserError, match=r"de\.txt:3001: an empty line"):
        build(toml, files, build_cpt_corpus, None, workers)


def test_the_same_input_gives_the_same_bytes(build, tmp_path):
    toml = f'[clean]\nmax_length_ratio = 3.0\nduplicates = {{ match = "letters" }}\n{PAIRS}'
    rows = tsv(*(pair for pair in combinations([side for pair in GOOD for side in pair], 2)), *GOOD)
    first = []
    for _ in range(2):
        build(toml, {"en-de.tsv": rows})
        first.append(
            [path.read_bytes() for path in sorted(tmp_path.glob("out*/*.jsonl")) + [tmp_path / "out.rejected.jsonl.gz"]]
        )
        (tmp_path / "out").rename(tmp_path / f"old_{len(first)}")
    assert first[0] == first[1] and len(first[0]) == 3


def test_a_missing_library_is_told_before_work(build, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)  # Python's way to say that there is none
    with pytest.raises(UserError, match=r"clean\.near_duplicates needs the package 'rensa': .*\.\[clean\]"):
        build(f"[clean]\nnear_duplicates = {{}}\n{PAIRS}", {"en-de.tsv": tsv(*GOOD)})
    assert not list(tmp_path.glob("out*"))


def test_hashes_are_on_disk_beyond_the_cache_and_all_are_found(tmp_path):
    count = 150_000
    seen = SeenHashes(tmp_path / "seen.sqlite", cache_mb=1)
    assert not any(seen.first([f"text {number}"], f"file:{number}") for number in range(count))
    assert (tmp_path / "seen.sqlite").stat().st_size > 24 * count  # not in memory: that holds 1 MB of some 6
    assert all(seen.first([f"text {number}"], "again") == f"file:{number}" for number in range(0, count, 7))
    assert seen.first(["text", "1"], "new") is None  # parts are not run together
    seen.close()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path, sample_data):
    pytest.importorskip("py3langid", reason="needs the extra: pip install -e '.[clean]'")
    text = """
[clean]
max_length_ratio = 3.0
language = {}
duplicates = { by = "target" }
evaluation = { files = ["ntrex/ntrex.en.txt.gz"] }
[[monolingual]]
path = "mono/mono.{language}.jsonl.gz"
languages = ["ur", "bo"]
[[pairs]]
path = "bilingual/{source}-{target}.tsv.gz"
pairs = ["en-ug", "zh-hy"]
"""
    (tmp_path / "corpus.toml").write_text(text)
    outputs = []
    for workers in (1, 2):
        folder = tmp_path / f"{workers}"
        build_cpt_corpus(tmp_path / "corpus.toml", folder / "out", str(sample_data), workers)
        outputs.append(
            {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}
        )
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2 + 4 + 2
    assert set(json.loads((folder / "out/corpus.json").read_text())["rejected"]["bilingual/en-ug.tsv.gz"]) >= {"language"}


KILLS_A_WORKER = """
import multiprocessing, os, signal, sys, threading
from pathlib import Path
from megatron_lmt.corpus.cpt import CptConfig, build_cpt_corpus
from megatron_lmt.corpus.files import pair_files, text_files
from megatron_lmt.errors import run_command

def kill_one():
    while not multiprocessing.active_children():
        pass
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=kill_one).start()
    run_command(lambda: print(build_cpt_corpus(Path(sys.argv[1]), Path(sys.argv[2]), workers=2)))
"""


def test_a_worker_that_dies_ends_the_build_with_an_error(tmp_path):
    (tmp_path / "corpus.toml").write_text(f"[clean]\nuntranslated = true\n{PAIRS}")
    (tmp_path / "en-de.tsv").write_text(tsv(*GOOD) * 2000, encoding="utf-8")
    (tmp_path / "kill.py").write_text(KILLS_A_WORKER)
    command = [sys.executable, tmp_path / "kill.py", tmp_path / "corpus.toml", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "a cleaning process died" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_no_workers(build):
    with pytest.raises(UserError, match="--workers 0: at least 1"):
        build(PAIRS, {"en-de.tsv": tsv(*GOOD)}, build_cpt_corpus, None, 0)
