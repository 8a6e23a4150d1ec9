"""Prefixes of token files as users name them: a folder, a file of theirs, or nearly right."""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.text_table import listed

ENDINGS = (".bin", ".idx", ".manifest.json")
SHOWN = 5


def prefix_of(path: Path) -> Path:
    """What a token file belongs to, so that a shell may list files; any other path as it is."""
    return next((Path(str(path).removesuffix(ending)) for ending in ENDINGS if path.name.endswith(ending)), path)


def prefixes_in(folder: Path) -> list[Path]:
    """All of which there is a file in this folder, in order."""
    return sorted({prefix for file in folder.iterdir() if (prefix := prefix_of(file)) != file})


def absent(prefix: Path) -> str:
    """That no token files have this prefix, and which prefix could be meant."""
    if prefix.is_dir():
        inside = prefixes_in(prefix)
        hint = f"name a prefix in it: {listed(inside, SHOWN)}" if inside else "no token files are in it"
        return f"{prefix} is a folder; {hint}"
    around = prefixes_in(prefix.parent) if prefix.parent.is_dir() else []
    near = [other for other in around if other.name.startswith(prefix.name)]
    hint = f"; there is {listed(near, SHOWN)}" if near else " (a prefix is the path without .bin and .idx)"
    return f"{prefix}.bin and {prefix}.idx: no such file{hint}"
