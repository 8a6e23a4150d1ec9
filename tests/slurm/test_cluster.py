"""The throw-away cluster itself."""

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.slurm.cluster import wait_for

OWNER = """
import signal, sys
from pathlib import Path
from tests.slurm.cluster import Cluster
with Cluster(Path(sys.argv[1]), num_nodes=1) as cluster:
    cluster.command("sbatch", "--output=/dev/null", "--wrap", "sleep 1000")
    print("ready", flush=True)
    signal.pause()
"""


def processes_of(folder):
    """Living processes, in whatever namespace, that were started for the cluster in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("SLURM_CONF", "").startswith(f"{folder}/")
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except psutil.Error:
            continue  # ended meanwhile
    return found


def test_nodes_have_their_own_names_and_processes(cluster):
    out = cluster.command("srun", "-N2", "-l", "bash", "-c", "echo $(hostname) $(ps ax | grep -c '[s]lurmctld')").stdout
    assert sorted(out.splitlines()) == ["0: node1 0", "1: node2 0"]


def test_nothing_is_left_when_its_owner_is_killed(cluster):
    interfaces, mounts = set(psutil.net_if_addrs()), Path("/proc/mounts").read_text()
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        command = [sys.executable, "-c", OWNER, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout.readline() == "ready\n"
            wait_for(lambda: "sleep" in processes_of(folder), "the job to run")
            owner.kill()
        wait_for(lambda: not processes_of(folder), "all processes of the cluster to end")
        assert set(psutil.net_if_addrs()) == interfaces
        assert Path("/proc/mounts").read_text() == mounts
