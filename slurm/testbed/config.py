"""The configuration files of a test bed: a pure function from its knobs to text.

Several slurmd on one host, fake GPUs (symlinks to /dev/null), no cgroups, a munge key of its own:
without it nobody, on this machine or elsewhere, can talk to the daemons.
"""

import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """How a test bed behaves; `_s` are seconds. Slurm's own defaults stand in the comments."""

    nodes: int = 2
    cpus: int = 16  # per node, declared: more than the host has is fine
    mem_mb: int = 16_000  # per node, declared
    gpus: int = 4  # per node, fake: a job sees CUDA_VISIBLE_DEVICES, there is no device behind it
    acct: Literal["none", "shim", "dbd"] = "shim"  # sacct: fails | answers from squeue | is real
    kill_wait: int = 5  # _s, 30: SIGTERM to SIGKILL after scancel, requeue, time limit
    min_job_age: int = 3600  # _s, 300: how long squeue knows a finished job
    max_array_size: int = 1001
    max_job_count: int = 10_000
    max_submit: int | None = None  # MaxSubmitJobs of the user; needs acct "dbd"
    cred_expire: int = 5  # _s, 120: a requeued job waits for it; raise it for node-loss tests
    preempt_grace: int = 20  # _s, 0: between the signal and the kill of a preempted job
    slurmd_timeout: int = 15  # _s, 300: until a silent node is DOWN and its jobs are requeued
    requeue: bool = True  # JobRequeue: what a job that says nothing gets

    def __post_init__(self) -> None:
        if self.acct not in ("none", "shim", "dbd"):
            raise ValueError(f"acct: expected none, shim or dbd, got {self.acct!r}")
        if self.max_submit is not None and self.acct != "dbd":
            raise ValueError("max_submit: only slurmdbd enforces it, use acct='dbd'")

    @property
    def node_names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{i}" for i in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class Place:
    """Where a bed is: its folder, its consecutive ports, this machine, the release of Slurm.

    Slurm's daemons bind either to all interfaces or to what the machine's own name stands for.
    `loopback`: that is 127.0.0.1. Where it is not, they listen everywhere.
    """

    root: Path
    base_port: int
    host: str
    loopback: bool
    version: tuple[int, int]

    @property
    def dbd_port(self) -> int:
        """Of slurmdbd; the base port is slurmctld's."""
        return self.base_port + 1

    @property
    def sql_port(self) -> int:
        """Of the database."""
        return self.base_port + 2

    def node_ports(self, count: int) -> str:
        """Of the nodes, as slurm.conf writes a range."""
        return f"[{self.base_port + 3}-{self.base_port + 2 + count}]"


def place(root: Path, base_port: int, version: tuple[int, int]) -> Place:
    """A bed on this machine; its name may also mean 127.0.1.1 (Debian), outside or nothing.

    Debian's will not do: the kernel sends from 127.0.0.1, and there the answers go.
    """
    name = socket.gethostname()
    try:
        loopback = socket.gethostbyname(name) == "127.0.0.1"
    except OSError:
        loopback = False
    return Place(root, base_port, name.partition(".")[0], loopback, version)


def render(knobs: Knobs, place: Place, password: str) -> dict[str, str]:
    """Name -> text of every file in `root/etc`. `password`: of slurmdbd at the database."""
    texts = {
        "slurm.conf": _slurm(knobs, place),
        "gres.conf": _gres(knobs, place),
        # From 24.05 cgroups can be switched off. Before, v1 is left alone as no plugin here asks
        # for it, whereas looking for v2 would need dbus.
        "cgroup.conf": f"CgroupPlugin={'disabled' if place.version >= (24, 5) else 'cgroup/v1'}\n",
    }
    if knobs.acct == "dbd":
        texts["slurmdbd.conf"] = _slurmdbd(place, password)
    return texts


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _gres(knobs: Knobs, place: Place) -> str:
    # Each file must be a character device (hence the links), and a bare Count= drains the node.
    if not knobs.gpus:
        return ""
    return f"NodeName=n[1-{knobs.nodes}] Name=gpu File={place.root}/dev/gpu[0-{knobs.gpus - 1}]\n"


def _slurm(knobs: Knobs, place: Place) -> str:
    root = place.root
    gres = f" Gres=gpu:{knobs.gpus}" if knobs.gpus else ""
    return f"""\
ClusterName=bed
SlurmctldHost={place.host}(127.0.0.1)
SlurmctldPort={place.base_port}
{"CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" if place.loopback else ""}
SlurmUser={_user()}
SlurmdUser={_user()}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/run/munge.sock,cred_expire={knobs.cred_expire}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait={knobs.kill_wait}
MinJobAge={knobs.min_job_age}
SlurmdTimeout={knobs.slurmd_timeout}
SlurmctldTimeout=30
InactiveLimit=0
ReturnToService=2
JobRequeue={int(knobs.requeue)}
MaxArraySize={knobs.max_array_size}
MaxJobCount={knobs.max_job_count}
MpiDefault=none
{_accounting(knobs, place)}
GresTypes=gpu
NodeName=n[1-{knobs.nodes}] NodeHostname={place.host} NodeAddr=127.0.0.1 \
Port={place.node_ports(knobs.nodes)} CPUs={knobs.cpus} RealMemory={knobs.mem_mb}{gres} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=preemptible Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={knobs.preempt_grace} State=UP
"""


def _accounting(knobs: Knobs, place: Place) -> str:
    if knobs.acct != "dbd":
        return "AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/none"
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={place.dbd_port}
AccountingStoragePass={place.root}/run/munge.sock
AccountingStorageTRES=gres/gpu
{"" if knobs.max_submit is None else "AccountingStorageEnforce=associations,limits"}
JobCompType=jobcomp/none"""


def _slurmdbd(place: Place, password: str) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={place.root}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={place.dbd_port}
{"CommunicationParameters=NoInAddrAny" if place.loopback else ""}
SlurmUser={_user()}
PidFile={place.root}/run/slurmdbd.pid
LogFile={place.root}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={place.sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
CommitDelay=1
"""
