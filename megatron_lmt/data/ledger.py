"""The mixture as a table: what is planned for each group, and what was consumed of it."""

from __future__ import annotations

from megatron_lmt.data.indexed import IndexedReader
from megatron_lmt.data.mixture import Source


def plan_table(sources: list[Source], readers: dict[str, IndexedReader], samples: int) -> list[str]:
    """Lines of text, a row for each group: its size on disk, and its share of `samples` to be drawn."""
    rows = []
    for group in dict.fromkeys(source.group for source in sources):
        members = [source for source in sources if source.group == group]
        weight = sum(source.weight for source in members)
        documents = sum(readers[source.name].num_documents for source in members)
        tokens = sum(readers[source.name].num_tokens for source in members)
        row = (group, len(members), f"{documents:,}", f"{tokens:,}", f"{weight:.2%}", f"{weight * samples:,.0f}")
        rows.append(row)
    return _table(("group", "sources", "documents", "tokens", "share", "planned samples"), rows)


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
    return _table(("group", "sources seen", "samples", "tokens consumed", "share of tokens", "most epochs"), rows)


def _table(header: tuple, rows: list[tuple]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
