"""An evaluation for people: tables by tier and direction group, as in arXiv 2511.07003, a heat map, and a comparison."""

from __future__ import annotations

import csv
from pathlib import Path

from megatron_lmt.errors import DataError
from megatron_lmt.files import write_text_atomically
from megatron_lmt.languages import languages
from megatron_lmt.plots import draw_heat_map
from megatron_lmt.text_table import text_table

REPORT, OFF_TARGET, SIDE_BY_SIDE = "report.txt", "off_target.tsv", "side_by_side.tsv"
GROUPS = {"en-x": "En→X", "x-en": "X→En", "zh-x": "Zh→X", "x-zh": "X→Zh"}
TIERS = ("high", "medium", "low")
METRICS = {"comet": "COMET", "bleu": "sacreBLEU", "spbleu": "spBLEU", "chrf++": "chrF++"}
RATES = {
    "off_target_rate": "off-target outputs, %",
    "undetermined_rate": "outputs without a letter, %",
    "reference_off_target_rate": "references that the identifier calls off-target, %",
    "source_copy_rate": "copies of the source, %",
    "empty_rate": "empty outputs, %",
    "repetition_rate": "outputs with a loop, %",
    "length_outlier_rate": "outputs more than 3 times longer or shorter than the reference, %",
    "length_ratio": "characters of outputs to characters of references, %",
}
PUBLISHED = {"comet": "comet22", "bleu": "sacrebleu"}
"""Metric here → prefix of its columns in a table of published scores."""


def groups_of(direction: str) -> dict[str, str]:
    """Group → the language that stands for X there. en-zh is in two groups, as in the paper; de-fr is in none."""
    source, target = direction.split("-")
    sides = {"en": target, "zh": target} if source in ("en", "zh") else {}
    found = {f"{source}-x": target} if sides else {}
    if target in ("en", "zh"):
        found[f"x-{target}"] = source
    return found


def write_report(records: list[dict], output: Path, about: list[str], published: Path | None = None) -> list[str]:
    """Write report.txt, off_target.tsv, a heat map for each metric and, with a table of published scores, side_by_side.tsv.

    Args:
        records: of `evaluate`.
        about: lines that say what was evaluated.
        published: tab-separated, with src, tgt and columns such as comet22_4B and sacrebleu_4B.
    Returns:
        The lines of the report.
    """
    metrics = {name: title for name, title in METRICS.items() if name in records[0]}
    lines = [*about, ""]
    for name, title in metrics.items():
        lines += [f"{title}:", *tier_table(records, name), ""]
    uncovered = sorted(record["direction"] for record in records if not record["comet_covered"])
    if "comet" in metrics and uncovered:
        covered = [record for record in records if record["comet_covered"]]
        lines += ["COMET without directions of languages that its encoder was not trained on (bo, mvf, tg, yue):"]
        lines += [*(tier_table(covered, "comet") if covered else ["none is left"]), ""]
        lines += [f"these directions: {' '.join(uncovered)}", ""]
    for name, title in RATES.items():
        lines += [f"{title}:", *tier_table(records, name, scale=100), ""]
    lines += ["Languages of the outputs, the directions that are least in their target:", *_off_target_table(records), ""]
    if published:
        lines += _side_by_side(records, published, output / SIDE_BY_SIDE)
    lines += [
        "Signatures:",
        *sorted({f"  {key} {text}" for record in records for key, text in record["signatures"].items()}),
    ]
    write_text_atomically(output / REPORT, "\n".join(lines) + "\n")
    _write_off_target(records, output / OFF_TARGET)
    for name, title in metrics.items():
        _draw(records, name, title, output / f"heat_map_{name.replace('++', 'pp')}.png")
    return lines


def tier_table(records: list[dict], name: str, scale: float = 1) -> list[str]:
    """Lines of text: means over directions, a row for each tier of X and a column for each group, with their number."""
    cells = {group: {tier: [] for tier in (*TIERS, "all")} for group in GROUPS}
    others = [record[name] * scale for record in records if not groups_of(record["direction"])]
    for record in records:
        for group, code in groups_of(record["direction"]).items():
            for tier in (languages()[code].tier, "all"):
                cells[group][tier].append(record[name] * scale)
    shown = [group for group in GROUPS if cells[group]["all"]]
    rows = [(tier, *(_mean(cells[group][tier]) for group in shown)) for tier in (*TIERS, "all")]
    table = text_table(("X is", *(GROUPS[group] for group in shown)), rows) if shown else []
    return [*table, f"other directions: {_mean(others)}"] if others else table


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f} ({len(values)})" if values else "-"


def _off_target_table(records: list[dict], rows: int = 20) -> list[str]:
    worst = sorted(records, key=lambda record: record["target_rate"])[:rows]
    header = ("direction", "in the target", "in the source", "references in the target", "most frequent")
    return text_table(header, [(r["direction"], *_off_target_cells(r)) for r in worst])


def _off_target_cells(record: dict) -> tuple[str, ...]:
    shares = (record["target_rate"], record["source_rate"], 1 - record["reference_off_target_rate"])
    frequent = " ".join(f"{code}:{share:.0%}" for code, share in list(record["languages"].items())[:3])
    return (*(f"{share:.1%}" for share in shares), frequent)


def _write_off_target(records: list[dict], path: Path) -> None:
    """All directions, as in LLaMAX's tables 7 and 13: the shares of outputs in the target and in the source language."""
    names = ("target_rate", "source_rate", "off_target_rate", "undetermined_rate", "reference_off_target_rate")
    lines = ["\t".join(("src", "tgt", *names, "languages"))]
    for record in records:
        shares = [f"{record[name]:.4f}" for name in names]
        found = " ".join(f"{code}:{share:.4f}" for code, share in record["languages"].items())
        lines.append("\t".join((*record["direction"].split("-"), *shares, found)))
    write_text_atomically(path, "\n".join(lines) + "\n")


def _draw(records: list[dict], name: str, title: str, path: Path) -> None:
    values = {
        (code, GROUPS[group]): record[name] for record in records for group, code in groups_of(record["direction"]).items()
    }
    if values:
        rows = [code for code in languages() if any(code == row for row, _ in values)]
        columns = [column for column in GROUPS.values() if any(column == found for _, found in values)]
        draw_heat_map(rows, columns, values, title, path)


def _side_by_side(records: list[dict], published: Path, path: Path) -> list[str]:
    """Means over the directions that both have, by group and tier; the directions themselves go to a file."""
    others = read_published(published)
    lines: list[str] = []
    details = []
    for name, prefix in PUBLISHED.items():
        sizes = [column for column in next(iter(others.values())) if column.startswith(f"{prefix}_")]
        common = [record for record in records if name in record and record["direction"] in others]
        if not common or not sizes:
            continue
        rows = []
        for group, title in GROUPS.items():
            for tier in (*TIERS, "all"):
                members = [record for record in common if _tier_in(record, group) in ((tier,) if tier != "all" else TIERS)]
                if members:
                    theirs = [[others[record["direction"]][size] for record in members] for size in sizes]
                    means = [f"{sum(values) / len(values):.2f}" for values in ([r[name] for r in members], *theirs)]
                    rows.append((f"{title} {tier} ({len(members)})", *means))
        lines += [f"{METRICS[name]} beside {published.name}, means over the directions of both:"]
        lines += [*text_table(("", "this model", *sizes), rows), ""]
        for record in common:
            scores = others[record["direction"]]
            details += [(record["direction"], name, size, f"{record[name]:.2f}", f"{scores[size]:.2f}") for size in sizes]
    table = [("direction", "metric", "published", "this_model", "published_score"), *details]
    write_text_atomically(path, "".join("\t".join(row) + "\n" for row in table))
    return lines or [f"{published.name} has none of these directions", ""]


def _tier_in(record: dict, group: str) -> str | None:
    code = groups_of(record["direction"]).get(group)
    return languages()[code].tier if code else None


def read_published(path: Path) -> dict[str, dict[str, float]]:
    """Direction → column → score.

    Raises:
        DataError: no such file, or not such a table.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        prefixes = tuple(f"{prefix}_" for prefix in PUBLISHED.values())
        return {
            f"{row['src']}-{row['tgt']}": {name: float(row[name]) for name in row if name.startswith(prefixes)}
            for row in rows
        }
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a table with src, tgt and columns of scores such as comet22_4B ({error})") from None
