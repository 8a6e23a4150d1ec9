"""Tables in text, for terminals and logs."""

from __future__ import annotations


def text_table(header: tuple, rows: list[tuple]) -> list[str]:
    """Lines of text with aligned columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
