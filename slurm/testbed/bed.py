"""Bed: a real Slurm on this host, with its own folder, for tests and experiments.

    with Bed(nodes=2, gpus=4, acct="dbd") as bed:
        subprocess.run(["sbatch", "job.sh"], env=os.environ | bed.env())

It leaves /etc/slurm, cgroups and other daemons alone, and answers only to users who can read its
munge key. It listens on loopback if the machine's name resolves to 127.0.0.1, else on all
interfaces.
"""

import getpass
import os
import random
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Self

from slurm.testbed import database, install, processes
from slurm.testbed.config import Knobs, place, render
from slurm.testbed.processes import Process

_IMPORT_ROOT = Path(__file__).parents[2]
_SACCT_SHIM = Path(__file__).with_name("sacct.py")
_ROOM = 512 * 2**20  # free bytes that a bed with a database needs
_START_S = 30.0  # a daemon that takes longer has failed


class BedError(RuntimeError):
    """The bed cannot do what was asked; the message says why."""


def memory() -> Path | None:
    """The fastest place for a bed: /dev/shm, or None if it is too small, as in some containers."""
    shm = Path("/dev/shm")
    roomy = os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > _ROOM
    return shm if roomy else None


class Bed:
    """A separate Slurm in `root` (by default a new folder in memory), with the given `Knobs`.

    As a context manager it removes its processes and its folder at the end, even if Python is
    killed.
    """

    def __init__(self, root: Path | None = None, **knobs: Any) -> None:
        self.knobs = Knobs(**knobs)
        self.root = root or Path(tempfile.mkdtemp(prefix="slurm-bed-", dir=memory()))
        self.conf = self.root / "etc" / "slurm.conf"
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.check()
        # Wipes the bed when its stdin closes: at the end of the block, or when this process dies.
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "slurm.testbed", "guard", "--root", str(self.root)],
            stdin=subprocess.PIPE,
            cwd=_IMPORT_ROOT,
            start_new_session=True,
        )
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
        if self._guard is not None:
            self._guard.communicate()

    def env(self) -> dict[str, str]:
        """The environment variables with which a process uses this bed."""
        return {"SLURM_CONF": str(self.conf), "PATH": f"{self.root}/bin:{install.search_path()}"}

    def run(self, *command: str, timeout_s: float = 20) -> str:
        """The output of a command, as in `bed.run("sbatch", "job.sh")`; BedError if it fails."""
        outer = {k: v for k, v in os.environ.items() if not re.match("S(LURM|BATCH|QUEUE|ACCT)", k)}
        try:
            done = subprocess.run(
                command,
                env=outer | self.env(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise BedError(f"{shlex.join(command)}: no answer in {timeout_s:g} s") from error
        if done.returncode:
            raise BedError(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def check(self) -> None:
        """Raises BedError if a bed cannot be started here, naming what is missing or in the way."""
        if packages := install.missing(dbd=self.knobs.acct == "dbd"):
            wanted = ", ".join(packages)
            raise BedError(f"not installed: {wanted} (run python -m slurm.testbed install)")
        if self.processes():
            raise BedError(f"{self.root}: already running (python -m slurm.testbed stop)")
        if self.root.exists() and any(self.root.iterdir()) and not self.conf.exists():
            raise BedError(f"{self.root}: not empty, and not a bed")

    def start(self) -> None:
        """Start all daemons and return when all nodes are idle; raises BedError if that fails."""
        self.check()
        self._write()
        self.start_daemon("munged")
        if self.knobs.acct == "dbd":
            self.start_daemon("mariadbd")
            self.start_daemon("slurmdbd")
            self._register()
        self.start_daemon("slurmctld")
        for node in self.knobs.node_names:
            self.start_daemon(node)
        self.wait_idle()

    def stop(self) -> None:
        """End all jobs and daemons; queue and accounting are kept for a later `start`."""
        self._end([p for p in self.processes() if p.comm not in processes.DAEMONS], SIGKILL)
        for daemon in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end([p for p in self.processes() if p.comm == daemon], SIGTERM)
        self._end(self.processes(), SIGKILL)

    def wipe(self) -> None:
        """Kill all processes of the bed and remove its folder, if that is a bed's."""
        while left := self.processes():  # repeated, since one may fork while /proc is read
            self._end(left, SIGKILL)
        if self.conf.exists():
            shutil.rmtree(self.root, ignore_errors=True)
        elif self.root.exists() and not any(self.root.iterdir()):
            self.root.rmdir()

    def processes(self) -> list[Process]:
        """The daemons, steps and job processes of this bed."""
        return processes.of(self.conf)

    def start_daemon(self, name: str) -> None:
        """Start munged, mariadbd, slurmdbd, slurmctld or a node and wait until it answers.

        A node (n1, n2, ...) is not waited for: see `wait_idle`. Raises BedError.
        """
        match name:
            case "munged":
                self._start_munged()
            case "mariadbd":
                self._start_mariadbd()
            case "slurmdbd":
                self.run("slurmdbd")
                self._wait("slurmdbd", "sacctmgr", "-n", "show", "cluster")
            case "slurmctld":
                self.run("slurmctld")
                self._wait("slurmctld", "scontrol", "ping")
            case _ if name in self.knobs.node_names:
                self.run("slurmd", "-N", name)
            case _:
                raise BedError(f"no daemon {name!r} in this bed")

    def stop_daemon(self, name: str, sig: Signals = SIGKILL) -> None:
        """End one daemon, by its name in `start_daemon`; its jobs keep running."""
        daemons = [p for p in self.processes() if p.comm in processes.DAEMONS]
        self._end([p for p in daemons if name in (p.comm, p.node)], sig)

    def crash(self, node: str) -> None:
        """Kill slurmd, steps and job processes of a node at once, as a power cut would."""
        while struck := processes.on_node(node, self.processes()):
            self._end(struck, SIGKILL)

    def wait_idle(self, timeout_s: float = _START_S) -> None:
        """Return when every node is up (idle or running jobs); BedError after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()
            if all(state in ("idle", "mix", "alloc", "comp") for state in states):
                return
            if any(state.startswith(("drain", "drng", "down", "inval")) for state in states):
                with suppress(BedError):  # refused if the nodes have recovered meanwhile
                    nodes = f"NodeName=n[1-{self.knobs.nodes}]"
                    self.run("scontrol", "update", nodes, "State=RESUME")
            if time.monotonic() > end:
                raise BedError(f"nodes are {', '.join(states)}: {self._last_words('slurmd')}")
            time.sleep(0.02)

    def _write(self) -> None:
        self.place = place(self.root, _free_ports(self.knobs.nodes + 3), _version())
        self._password = secrets.token_hex(16)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("etc", "run", "log", "state", "dev", "bin"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for node in self.knobs.node_names:
            (self.root / "spool" / node).mkdir(parents=True, exist_ok=True)
        texts = render(self.knobs, self.place, self._password)
        for name, text in texts.items():
            path = self.root / "etc" / name
            path.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
            path.write_text(text)
        for gpu in range(self.knobs.gpus):
            (self.root / f"dev/gpu{gpu}").unlink(missing_ok=True)
            (self.root / f"dev/gpu{gpu}").symlink_to("/dev/null")
        shim = self.root / "bin" / "sacct"
        shim.unlink(missing_ok=True)
        if self.knobs.acct == "shim":
            shim.write_text(
                f'#!/bin/sh\nexec {shlex.join([sys.executable, "-IS", str(_SACCT_SHIM)])} "$@"\n'
            )
            shim.chmod(0o755)

    def _start_munged(self) -> None:
        run = self.root / "run"
        if not (run / "munge.key").exists():
            self.run("mungekey", "--create", f"--keyfile={run}/munge.key")
        self.run(
            "munged",
            "--force",  # munged otherwise refuses a folder that other users cannot enter
            f"--key-file={run}/munge.key",
            f"--socket={run}/munge.sock",
            f"--pid-file={run}/munged.pid",
            f"--seed-file={run}/munged.seed",
            f"--log-file={self.root}/log/munged.log",
        )

    def _start_mariadbd(self) -> None:
        if not (self.root / "mysql").exists():
            self.run(*database.create_command(self.root), timeout_s=60)
        self.run(*database.start_command(self.root, self.place.sql_port))
        self._wait("mariadbd", *database.client_command(self.root, "SELECT 1"))
        self.run(*database.client_command(self.root, database.grant(self._password)))

    def _register(self) -> None:
        """Register the cluster with slurmdbd, and the user's submit limit if there is one."""
        show = ("sacctmgr", "-nP", "show", "assoc", "format=cluster,user")
        if "bed|" not in self.run(*show):
            self.run("sacctmgr", "-i", "add", "cluster", "bed")
        if (limit := self.knobs.max_submit) is not None:
            user = getpass.getuser()
            if f"bed|{user}" not in self.run(*show):
                self.run("sacctmgr", "-i", "add", "user", user, "account=root", "cluster=bed")
            self.run("sacctmgr", "-i", "modify", "user", user, "set", f"MaxSubmitJobs={limit}")

    def _wait(self, daemon: str, *question: str) -> None:
        end = time.monotonic() + _START_S
        while True:
            try:
                self.run(*question, timeout_s=5)
                return
            except BedError as error:
                if time.monotonic() > end:
                    raise BedError(f"{daemon} did not start: {self._last_words(daemon)}") from error
            time.sleep(0.02)

    def _last_words(self, daemon: str) -> str:
        """The last fatal line of a daemon's log; if a bed fails to start, its logs are deleted."""
        logs = [p.read_text(errors="replace") for p in (self.root / "log").glob(f"{daemon}*.log")]
        lines = "".join(logs).strip().splitlines()
        fatal = [line for line in lines if "fatal" in line or "ERROR" in line]
        return (fatal or lines or ["no log was written"])[-1]

    def _end(self, ending: list[Process], sig: Signals) -> None:
        processes.kill(ending, sig)
        if not processes.wait_gone(self.conf, {p.pid for p in ending}, timeout_s=10):
            processes.kill(ending)


def _version() -> tuple[int, int]:
    """Slurm's version, such as (22, 5)."""
    command = shutil.which("slurmctld", path=install.search_path()) or "slurmctld"
    printed = subprocess.run([command, "-V"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", printed)[:2]
    return int(major), int(minor)


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below the range that the kernel assigns from."""
    for _ in range(100):
        base = random.randrange(20_000, 32_000)
        if all(_is_free(port) for port in range(base, base + count)):
            return base
    raise BedError(f"found no {count} consecutive free ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
