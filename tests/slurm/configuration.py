"""The files of a throw-away Slurm cluster: everything lives in one folder, nothing in /etc, /run or /var.

What each unusual line is for is said beside it; all were needed with Slurm 22.05 of Debian 12 on a machine without systemd.
"""

from __future__ import annotations

from pathlib import Path

NETWORK = "10.231.0"
HEAD_ADDRESS = f"{NETWORK}.1"
GPUS_PER_NODE = 8
LIBRARIES = "/usr/lib/x86_64-linux-gnu/slurm-wlm"


def node_name(number: int) -> str:
    return f"node{number}"


def node_address(number: int) -> str:
    return f"{NETWORK}.{10 + number}"


def write_configuration(folder: Path, num_nodes: int) -> None:
    """Write slurm.conf, gres.conf, cgroup.conf, hosts and nsswitch.conf for nodes 1 to `num_nodes`."""
    numbers = range(1, num_nodes + 1)
    nodes = "\n".join(
        f"NodeName={node_name(n)} NodeHostname={node_name(n)} NodeAddr={node_address(n)} Port=16818 CPUs=16 "
        f"RealMemory=8000 Gres=gpu:h100:{GPUS_PER_NODE} State=UNKNOWN"
        for n in numbers
    )
    hosts = "\n".join(f"{node_address(n)} {node_name(n)}" for n in numbers)
    files = {
        "slurm.conf": SLURM_CONF.format(folder=folder, head=HEAD_ADDRESS, libraries=LIBRARIES, nodes=nodes),
        "gres.conf": GRES_CONF.format(folder=folder, last_node=num_nodes, last_gpu=GPUS_PER_NODE - 1),
        # loaded and never used; "disabled" comes only with Slurm 23.02
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        "hosts": f"127.0.0.1 localhost\n{HEAD_ADDRESS} head\n{hosts}\n",
        "nsswitch.conf": "hosts: files\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)


# cred_expire: a requeued job starts again once its old credential has expired, by default after two minutes.
# config_overrides: nodes may claim more cores and memory than this machine has.
# SlurmdTimeout: seconds until a silent node is given up, by default 300.
SLURM_CONF = """
ClusterName=test
SlurmctldHost=head({head})
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
PluginDir={libraries}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=0
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_resolution=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=20
BatchStartTimeout=60
UnkillableStepTimeout=60
KillWait=15
CompleteWait=0
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
{nodes}
"""

# device nodes, because plain files are counted and then never handed to a task
GRES_CONF = """
AutoDetect=off
NodeName=node[1-{last_node}] Name=gpu Type=h100 File={folder}/dev/nvidia[0-{last_gpu}] Flags=nvidia_gpu_env
"""
