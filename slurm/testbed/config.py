"""The configuration files of a test bed: a pure function from its knobs to text.

Several slurmd on one host, fake GPUs (symlinks to /dev/null), no cgroups, and a separate munge key:
without that key nobody, on this machine or elsewhere, can talk to the daemons.
"""

import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Settings of a test bed. Comments give Slurm's default for those in seconds."""

    nodes: int = 2
    cpus: int = 16  # declared per node; may be more than the host has
    mem_mb: int = 16_000  # declared per node
    gpus: int = 4  # per node, fake: a job gets CUDA_VISIBLE_DEVICES, but there is no device
    acct: Literal["none", "shim", "dbd"] = "shim"  # sacct: fails | answers from squeue | is real
    kill_wait: int = 5  # seconds (30): SIGTERM to SIGKILL after scancel, requeue, time limit
    min_job_age: int = 3600  # seconds (300): how long squeue knows a finished job
    max_array_size: int = 1001
    max_job_count: int = 10_000
    max_submit: int | None = None  # MaxSubmitJobs of the user; needs acct "dbd"
    cred_expire: int = 5  # seconds (120) that a requeued job waits; raise it for node-loss tests
    preempt_grace: int = 20  # seconds (0) between signal and kill of a preempted job
    slurmd_timeout: int = 15  # seconds (300) until a silent node is DOWN and its jobs are requeued
    requeue: bool = True  # JobRequeue: whether jobs may be requeued unless they say otherwise

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
    """Where a bed is: its folder, its consecutive ports, this machine, and the version of Slurm.

    Slurm's daemons listen either on all interfaces or on the address of the machine's name.
    loopback: whether that address is 127.0.0.1; if not, they listen on all interfaces.
    """

    root: Path
    base_port: int
    host: str
    loopback: bool
    version: tuple[int, int]

    @property
    def dbd_port(self) -> int:
        """Port of slurmdbd; the base port is slurmctld's."""
        return self.base_port + 1

    @property
    def sql_port(self) -> int:
        """Port of the database."""
        return self.base_port + 2

    def node_ports(self, count: int) -> str:
        """Ports of the nodes, as a range in the syntax of slurm.conf."""
        return f"[{self.base_port + 3}-{self.base_port + 2 + count}]"


def place(root: Path, base_port: int, version: tuple[int, int]) -> Place:
    """A bed on this machine, whose name may resolve to 127.0.0.1, to an outside address, or not.

    Debian's 127.0.1.1 does not count as loopback: the kernel sends from 127.0.0.1, so answers go
    there.
    """
    name = socket.gethostname()
    try:
        loopback = socket.gethostbyname(name) == "127.0.0.1"
    except OSError:
        loopback = False
    return Place(root, base_port, name.partition(".")[0], loopback, version)


def render(knobs: Knobs, place: Place, password: str) -> dict[str, str]:
    """Name -> text of every file in `root/etc`. password: slurmdbd's for the database."""
    texts = {
        "slurm.conf": _slurm(knobs, place),
        "gres.conf": _gres(knobs, place),
        # Since 24.05 cgroups can be disabled. Before, choose v1, which is not used as no plugin
        # here needs it; detecting v2 would need dbus.
        "cgroup.conf": f"CgroupPlugin={'disabled' if place.version >= (24, 5) else 'cgroup/v1'}\n",
    }
    if knobs.acct == "dbd":
        texts["slurmdbd.conf"] = _slurmdbd(place, password)
    return texts


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _gres(knobs: Knobs, place: Place) -> str:
    # Each file must be a character device (hence the links); with Count= alone the node is drained.
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
