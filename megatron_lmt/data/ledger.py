"""The mixture as a table: what is planned for each group and source, and what was consumed of it."""

from __future__ import annotations

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.weights import Plan
from megatron_lmt.text_table import text_table


def plan_table(plan: Plan, readers: dict[str, IndexedReader], samples: int) -> list[str]:
    """Lines of text, a row for each group: its size on disk, and its share of the `samples` of the run."""
    planned = plan.planned_samples(samples)
    rows = []
    for group in dict.fromkeys(source.group for source in plan.sources):
        members = {source.name: count for source, count in zip(plan.sources, planned, strict=True) if source.group == group}
        documents = sum(readers[name].num_documents for name in members)
        tokens = sum(readers[name].num_tokens for name in members)
        drawn = sum(members.values())
        rows.append((group, len(members), f"{documents:,}", f"{tokens:,}", f"{drawn / samples:.2%}", f"{drawn:,.0f}"))
    return text_table(("group", "sources", "documents", "tokens", "share", "planned samples"), rows)


def consumed_table(ledger: list[dict]) -> list[str]:
    """Lines of text, a row for each group and one for all, from `Mixture.ledger`."""
    groups = list(dict.fromkeys(row["group"] for row in ledger))
    total = sum(row["tokens"] for row in ledger) or 1
    rows = []
    for group in [*groups, "all"]:
        members = [row for row in ledger if group in (row["group"], "all")]
        tokens = sum(row["tokens"] for row in members)
        samples = sum(row["samples"] for row in members)
        seen = f"{sum(row['samples'] > 0 for row in members)} of {len(members)}"
        most = max(row["epochs"] for row in members)
        rows.append((group, seen, f"{samples:,}", f"{tokens:,}", f"{tokens / total:.2%}", f"{most:.2f}"))
    return text_table(("group", "sources seen", "samples", "tokens consumed", "share of tokens", "most epochs"), rows)


def comparison_table(planned: dict[str, float], ledger: list[dict], by: str) -> list[str]:
    """Lines of text: what should have been drawn and what was, in each phase and in all.

    Args:
        planned: source name → samples by the plan, up to where the ledger is.
        ledger: rows of `Mixture.ledger`.
        by: "group" or "source", what a row is.
    """
    rows = []
    for name in dict.fromkeys(row[by] for row in ledger):
        members = [row for row in ledger if row[by] == name]
        samples = sum(planned[row["source"]] for row in members)
        drawn, tokens, documents = (sum(row[unit] for row in members) for unit in ("samples", "tokens", "documents"))
        in_phases = [sum(counts) for counts in zip(*(row["samples_in_phases"] for row in members), strict=True)]
        parts = " + ".join(f"{count:,}" for count in in_phases) + " = " if len(in_phases) > 1 else ""
        most = max(row["epochs"] for row in members)
        counts = (f"{samples:,.2f}", f"{parts}{drawn:,}", f"{drawn - samples:+.2f}", f"{tokens:,}", f"{documents:,}")
        rows.append((name, *counts, f"{most:.2f}"))
    epochs = "epochs" if by == "source" else "most epochs"
    return text_table((by, "planned samples", "drawn", "deviation", "tokens", "documents", epochs), rows)
