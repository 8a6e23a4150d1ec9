"""Tables and lists of numbers in text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Iterable

MOST_LISTED = 20


def text_table(header: tuple, rows: list[tuple]) -> list[str]:
    """Lines of text with aligned columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def listed(items: Iterable, most: int = MOST_LISTED) -> str:
    """Each number, or path, once, in rising order; of many the first ones, and how many more."""
    rising = sorted(set(items))
    more = len(rising) - most
    return ", ".join(map(str, rising[:most])) + (f" and {more} more" if more > 0 else "")
