"""One cluster for all Slurm tests; where it cannot be, they are skipped with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import NAMESPACES, PROGRAMS, Cluster, disposable_folder


def _why_not() -> str | None:
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"no Slurm here, missing {' '.join(missing)}: as root on Debian, bash tests/run.sh installs it"
    if os.geteuid() != 0:
        return "Slurm's daemons and namespaces need root"
    tried = subprocess.run([*NAMESPACES, "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, text=True)
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    with disposable_folder() as folder, Cluster(folder, num_nodes=2) as running:
        yield running
