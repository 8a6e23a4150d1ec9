"""What made a result besides its inputs: the commit of this code, the versions of packages, the machine."""

from __future__ import annotations

import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("megatron_lmt", "megatron-core", "torch", "transformer-engine", "transformers", "tokenizers", "numpy", "triton")


def versions() -> dict[str, str | None]:
    """Of Python and of each package; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code() -> dict[str, str | bool | None]:
    """The commit of the running code, and whether files of it were changed since (`dirty`); None without a repository."""
    folder = Path(__file__).parent
    # installed into site-packages, the code may lie inside a repository of something else
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain", "--", ".."))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, str | int]:
    """The first process's node."""
    return {"host": socket.gethostname(), "system": platform.platform(), "processor": platform.processor()}
