"""A real Slurm cluster on this machine, for the time of the tests: every node has its own hostname, address and processes.

A node is a set of Linux namespaces around one slurmd. It can lose its power: its cable is taken out and its processes are
killed. All of it ends with the process that started it, even if that one is killed: the first process of each node asks the
kernel for that, and namespaces with their mounts, cables and addresses end with their last process.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.slurm.configuration import GPUS_PER_NODE, HEAD_ADDRESS, node_address, node_name, write_configuration

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "nsenter", "unshare", "setpriv", "ip")
NAMESPACES = "unshare --net --uts --mount --pid --fork --mount-proc --kill-child --propagation private".split()

# zombies are reaped by the shell, which is the first process of its namespace; Slurm tells daemons by their name
HEAD = """
set -e
hostname head
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf
ip link set lo up
ip link add br0 type bridge
ip addr add {head}/24 dev br0
ip link set br0 up
munged --foreground --force --socket={folder}/munge.sock --key-file={folder}/munge.key --pid-file={folder}/munged.pid \
    --log-file={folder}/log/munged.log --seed-file={folder}/munge.seed &
slurmctld -D &
while :; do wait; sleep 0.2; done
"""
NODE = """
set -e
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add {address}/24 dev eth0
ip link set eth0 up
slurmd -D -N {name} -d "$(command -v slurmstepd)" &
while :; do wait; sleep 0.2; done
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    """Wait until `condition()` is true. The limit only ends a test that would hang: the machine may be slow."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
        time.sleep(0.1)


@contextmanager
def disposable_folder() -> Iterator[Path]:
    """A folder that is removed even if this process is killed: a shell waits for the end of a pipe to it."""
    folder = tempfile.mkdtemp(prefix="slurm-")
    remove = ["bash", "-c", 'read -r; until rm -rf -- "$1"; do sleep 0.1; done', "remove", folder]
    with subprocess.Popen(remove, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        yield Path(folder)


class Cluster:
    """Head node and compute nodes, started by `with`.

    Args:
        folder: an empty folder with a short name, because sockets in it may have 107 characters.
        num_nodes: compute nodes node1, node2 …, each with 8 GPUs that are none.
    """

    def __init__(self, folder: Path, num_nodes: int):
        self.folder = folder
        self.num_nodes = num_nodes
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Cluster:
        self._prepare_folder()
        try:
            self._start("head", HEAD.format(folder=self.folder, head=HEAD_ADDRESS))
            wait_for(lambda: self.command("ip", "link", "show", "br0", check=False).returncode == 0, "the bridge")
            for number in range(1, self.num_nodes + 1):
                self.power_on(number)
            wait_for(lambda: self._idle_nodes() == self.num_nodes, "all nodes to be idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process; the namespaces go with them."""
        for name in list(self.processes):
            self._kill(name)

    def _kill(self, name: str) -> None:
        # the kernel lets the first process of a namespace go only after all others in it
        process = self.processes.pop(name)
        for first in psutil.Process(process.pid).children() if process.poll() is None else []:
            first.kill()
        process.wait()

    def _prepare_folder(self) -> None:
        for name in ("state", "spool", "log", "dev"):
            (self.folder / name).mkdir()
        write_configuration(self.folder, self.num_nodes)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for number in range(GPUS_PER_NODE):  # each is /dev/null under another name
            os.mknod(self.folder / f"dev/nvidia{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))

    def _start(self, name: str, script: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, "bash", "-c", script]
        log = open(self.folder / "log" / f"{name}.out", "ab")
        with log:
            self.processes[name] = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)
        wait_for(lambda: self._first_process(name), f"the first process of {name}")

    def _first_process(self, name: str) -> int | None:
        """Its number outside of the namespace."""
        process = self.processes[name]
        assert process.poll() is None, (self.folder / "log" / f"{name}.out").read_text()
        children = psutil.Process(process.pid).children()
        return children[0].pid if children else None

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *command: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command on the head node, as a user logged in there."""
        enter = ["nsenter", "-t", str(self._first_process("head")), "-n", "-m", "-u", f"--wd={cwd or self.folder}", "--"]
        done = subprocess.run([*enter, *command], env=self.environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done

    def _idle_nodes(self) -> int:
        return self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%t", check=False).stdout.split().count("idle")

    def power_on(self, number: int) -> None:
        name = node_name(number)
        self._start(name, NODE.format(folder=self.folder, name=name, address=node_address(number)))
        cable = ["ip", "link", "add", f"v{number}", "type", "veth"]
        self.command(*cable, "peer", "name", "eth0", "netns", str(self._first_process(name)))
        self.command("ip", "link", "set", f"v{number}", "master", "br0", "up")

    def power_off(self, number: int) -> None:
        """Every process of the node is gone at once, and nothing says goodbye on the network."""
        # deleted, because the kernel keeps a network with open connections, and the cable in it, for a minute
        self.command("ip", "link", "del", f"v{number}")
        self._kill(node_name(number))
