"""The throw-away cluster itself."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.slurm.cluster import wait_for

OWNER = """
import signal
from tests.slurm.cluster import Cluster, disposable_folder
with disposable_folder() as folder, Cluster(folder, num_nodes=1) as cluster:
    cluster.command("sbatch", "--output=/dev/null", "--wrap", "sleep 1000")
    print(folder, flush=True)
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
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        folder = Path(owner.stdout.readline().strip())
        wait_for(lambda: "sleep" in processes_of(folder), "the job to run")
        owner.kill()
    wait_for(lambda: not processes_of(folder), "all processes of the cluster to end")
    wait_for(lambda: not folder.exists(), "its folder to go")
    assert set(psutil.net_if_addrs()) == interfaces
    assert Path("/proc/mounts").read_text() == mounts
