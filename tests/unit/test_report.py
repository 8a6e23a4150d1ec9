"""The report: means by tier and group as the paper has them, the comparison, and the files."""

import pytest

from megatron_lmt.errors import DataError
from megatron_lmt.eval.report import groups_of, read_published, tier_table, write_report
from megatron_lmt.languages import directions

SCORED = {
    "off_target_rate": 0.25,
    "target_rate": 0.75,
    "undetermined_rate": 0.0,
    "source_rate": 0.05,
    "reference_off_target_rate": 0.01,
    "languages": {"xx": 0.75, "en": 0.05},
    "source_copy_rate": 0.0,
    "empty_rate": 0.0,
    "repetition_rate": 0.0,
    "length_outlier_rate": 0.0,
    "length_ratio": 1.0,
    "signatures": {"bleu": "tok:13a"},
}


def record(direction, **scores):
    return {"direction": direction, "comet_covered": True, **SCORED, **scores}


@pytest.fixture
def published(sample_data):
    file = sample_data.parent / "lmt_scores.tsv"
    if not file.is_file():
        pytest.skip(f"no {file}, the scores that LMT published")
    return file


def test_groups_are_the_papers():
    assert groups_of("en-ky") == {"en-x": "ky"} and groups_of("ky-zh") == {"x-zh": "ky"} and groups_of("de-fr") == {}
    assert groups_of("zh-en") == {"zh-x": "en", "x-en": "zh"}
    found = [group for direction in directions("all") for group in groups_of(direction)]
    assert [found.count(group) for group in ("en-x", "x-en", "zh-x", "x-zh")] == [59, 59, 59, 59]


def test_means_of_the_published_scores_are_the_papers(published):
    """The averages of arXiv 2511.07003 v2, table 2, rows "+ GRPO", within the rounding of the paper."""
    scores = read_published(published)
    assert len(scores) == 234
    records = [record(direction, comet=row["comet22_4B"]) for direction, row in scores.items()]
    rows = {line.split()[0]: line.split()[1::2] for line in tier_table(records, "comet")[2:]}
    means = {tier: [float(cell) for cell in cells] for tier, cells in rows.items()}
    expected = {
        "high": [89.43, 88.46, 87.20, 88.19],
        "medium": [90.23, 89.10, 87.52, 87.97],
        "low": [87.85, 86.60, 84.92, 85.81],
    }
    for tier, values in expected.items():
        assert means[tier] == pytest.approx(values, abs=0.011), tier


def test_report_and_its_files(tmp_path, published):
    records = [record("en-ky", bleu=20.0, comet=80.0), record("zh-en", bleu=30.0, comet=90.0)]
    records += [record("de-fr", bleu=1.0, comet=2.0), record("en-bo", bleu=3.0, comet=95.0, comet_covered=False)]
    lines = write_report(records, tmp_path, ["a model"], published)
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").split("\n")[:-1] == lines
    first, second = [line for line in lines if line.startswith("low")][:2]
    assert "87.50 (2)" in first and "11.50 (2)" in second  # COMET, BLEU: en-ky and en-bo
    assert "these directions: en-bo" in lines
    assert "other directions: 2.00 (1)" in lines
    assert any(line.startswith("zh-en") and "75.0%" in line for line in lines)
    for name in ("heat_map_comet.png", "heat_map_bleu.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    table = [line.split("\t") for line in (tmp_path / "side_by_side.tsv").read_text().splitlines()]
    scores = read_published(published)
    assert len(table) == 1 + 3 * 2 * 4
    for direction, metric, column, ours, theirs in table[1:]:
        assert float(theirs) == pytest.approx(scores[direction][column])
        assert float(ours) == next(r[metric] for r in records if r["direction"] == direction)
    assert len((tmp_path / "off_target.tsv").read_text().splitlines()) == 5


def test_other_tables_are_refused(tmp_path):
    for text in ("src\ttgt\tcomet22_4B\nen\tde\tgood\n", "from\tto\nen\tde\n", "src\ttgt\tcomet22_4B\nen\tde\n"):
        (tmp_path / "scores.tsv").write_text(text)
        with pytest.raises(DataError, match="not a table with src, tgt"):
            read_published(tmp_path / "scores.tsv")
    with pytest.raises(DataError, match="No such file"):
        read_published(tmp_path / "none.tsv")
