"""How many jobs may be submitted, and how to divide them into arrays. Read before every launch."""

import getpass
import re
import sys
from dataclasses import dataclass
from typing import NamedTuple

from slurm.command import ask


class Cap(NamedTuple):
    """A limit on jobs in the queue, of which each array task is one. most: the limit; queued: jobs
    that count towards it now."""

    name: str
    most: int
    queued: int


_DEFAULT_CAP = Cap("MaxJobCount", 10_000, 0)


@dataclass(frozen=True)
class Limits:
    """How much may be submitted. Defaults are Slurm's; known: whether the limits were read."""

    max_array_size: int = 1001  # tasks per array; the largest index is one less
    cap: Cap = _DEFAULT_CAP  # the tightest of all limits
    known: bool = False

    @property
    def room(self) -> int:
        """Number of jobs that may be submitted now."""
        return max(0, self.cap.most - self.cap.queued)


def chunks(n: int, limits: Limits) -> list[range]:
    """Divide jobs 0..n-1 into arrays. Jobs for which there is no room are left out.

    MaxArraySize bounds indices, not counts, so every array starts at 0 again.
    """
    size = max(1, limits.max_array_size)
    fitting = min(n, limits.room)
    return [range(start, min(start + size, fitting)) for start in range(0, fitting, size)]


def read(account: str | None = None, qos: str = "normal") -> Limits:
    """The limits of this user; Slurm's defaults, not `known`, if slurmctld does not answer.

    Considers the association (the default one unless `account` is given), the accounts above it
    and the QOS. Runs two commands, or four if the cluster enforces limits.
    """
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", ask("scontrol", "show", "config").text, re.M))
    if "MaxArraySize" not in config:
        return Limits()
    tasks = re.search(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    size = min(int(config["MaxArraySize"]), int(tasks[1]) if tasks else sys.maxsize)
    user = getpass.getuser()
    queue = ask("squeue", "-h", "-r", "-u", user, "-o", "%i")
    if not queue.ok:  # no answer does not mean an empty queue
        return Limits(size)
    queued = len(re.findall(r"^\d\S*\s*$", queue.text, re.M))  # skips greetings that sites print
    caps = [Cap("MaxJobCount", int(config["MaxJobCount"]), queued)]
    if "limits" in config.get("AccountingStorageEnforce", ""):
        known = ask("scontrol", "show", "assoc_mgr", f"users={user}", "flags=assoc,qos")
        if not known.ok:
            return Limits(size)
        caps += association_caps(known.text, user, account, qos)
        told = ask("sacctmgr", "-nP", "show", "qos", qos, "format=MaxSubmitJobsPU").text
        if per_user := re.search(r"^(\d+)\s*$", told, re.M):
            caps.append(Cap(f"MaxSubmitJobsPerUser of QOS {qos}", int(per_user[1]), queued))
    return Limits(size, min(caps, key=lambda cap: cap.most - cap.queued), known=True)


def association_caps(text: str, user: str, account: str | None, qos: str) -> list[Cap]:
    """The submit limits that apply to `user`, from the output of `scontrol show assoc_mgr`."""
    accounts: dict[str, str] = {}
    applying: dict[str, str] = {}  # whose limits -> record that has them
    for record in re.split(r"\n(?=ClusterName=|QOS=)", text):
        if record.startswith(f"QOS={qos}("):
            applying[f"QOS {qos}"] = record.partition("Account Limits")[0]
        elif head := re.match(r"ClusterName=\S* Account=(\S*) UserName=([^(\s]*)", record):
            if not head[2]:
                accounts[head[1]] = record
            elif _is_for(record, head, user, account):
                account = head[1]
                applying[f"user {user} in account {account}"] = record
    while account in accounts:
        record = accounts.pop(account)
        applying[f"account {account}"] = record
        above = re.search(r"ParentAccount=([^(\s]*)", record)
        account = above[1] if above else None
    return [
        Cap(f"{name} of {whose}", int(most), int(queued))
        for whose, record in applying.items()
        for name, most, queued in re.findall(r"(\w*Submit\w*)=(\d+)\((\d+)\)", record)
    ]


def _is_for(record: str, head: re.Match[str], user: str, account: str | None) -> bool:
    chosen = head[1] == account if account else "DefAssoc=Yes" in record
    return head[2] == user and chosen and " Partition= " in record  # not for one partition only
