"""One command of Slurm: no shell, a time limit, and an answer even when there is none."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 20.0  # Slurm's own clients give up after 9 s when slurmctld is down

# Without the bit string length, squeue and sacct cut array expressions after 64 characters.
PLAIN = {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}

_OPTIONS = re.compile(
    r"S(BATCH|QUEUE|ACCT|ACCTMGR|CONTROL|CANCEL|INFO|RUN|ALLOC|LURMD)_"
    r"|SLURM_(?!(CONF|CONF_SERVER|CLUSTERS|JWT)$)"
)
"""Variables that Slurm's commands take for options, and what they tell of the job we are in. A
user's SBATCH_WAIT, SQUEUE_FORMAT or SACCT_FORMAT would change what a command does or prints, and a
job that inherits another one's SLURM_MEM_PER_CPU is refused by srun. What a user may mean for jobs
(SBATCH_ACCOUNT, ...) is read with the profile."""


@dataclass(frozen=True)
class Answer:
    """What a command printed. Not `ok`: it failed, took too long or is not installed."""

    ok: bool
    text: str
    error: str


def ask(*command: str, timeout_s: float = TIMEOUT_S, plain: Mapping[str, str] = PLAIN) -> Answer:
    """Runs one command; never raises. plain: variables that make what it prints the same anywhere;
    sbatch would hand them on to its jobs."""
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
    """One line, from the first error on: a site's greetings come before."""
    lines = [*filter(None, map(str.strip, text.splitlines()))]
    first = next((n for n, line in enumerate(lines) if "error:" in line), 0)
    return "; ".join(re.sub(r"^\w+: (error: )?", "", line) for line in lines[first:])
