"""Runs a Slurm command without a shell and with a time limit, and never raises."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 20.0  # Slurm's own clients give up after 9 s when slurmctld is down

# By default, squeue and sacct truncate array expressions to 64 characters.
PLAIN = {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}

_OPTIONS = re.compile(
    r"S(BATCH|QUEUE|ACCT|ACCTMGR|CONTROL|CANCEL|INFO|RUN|ALLOC|LURMD)_"
    r"|SLURM_(?!(CONF|CONF_SERVER|CLUSTERS|JWT)$)"
)
"""Variables that Slurm's commands read as options, and those that describe the current job; they
are not passed on. A user's SBATCH_WAIT, SQUEUE_FORMAT or SACCT_FORMAT would change what a command
does or prints, and srun refuses a job that inherits another's SLURM_MEM_PER_CPU. Variables that
users set for their jobs (SBATCH_ACCOUNT, ...) are read with the profile."""


@dataclass(frozen=True)
class Answer:
    """What a command printed. ok: False if it failed, took too long or is not installed."""

    ok: bool
    text: str
    error: str


def ask(*command: str, timeout_s: float = TIMEOUT_S, plain: Mapping[str, str] = PLAIN) -> Answer:
    """Run a command; never raises. plain: environment variables that make its output the same
    everywhere; {} for sbatch, which would pass them on to its jobs."""
    outer = {k: v for k, v in os.environ.items() if not _OPTIONS.match(k)}
    try:
        done = subprocess.run(
            command,
            env=outer | dict(plain),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Answer(False, "", f"{command[0]} did not answer in {timeout_s:g} s")
    except OSError as error:
        return Answer(False, "", f"{command[0]}: {error.strerror}")
    return Answer(done.returncode == 0, done.stdout, _line(done.stderr))


def _line(text: str) -> str:
    """The text from the first error on, as one line; sites print greetings before it."""
    lines = [*filter(None, map(str.strip, text.splitlines()))]
    first = next((n for n, line in enumerate(lines) if "error:" in line), 0)
    return "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines[first:])
