"""One command of Slurm: no shell, a time limit, and an answer even when there is none."""

import os
import re
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 20.0  # Slurm's own clients give up after 9 s when slurmctld is down


class ClusterError(RuntimeError):
    """Slurm refused, or is not there; its own words on one line."""


@dataclass(frozen=True)
class Answer:
    """What a command printed. Not `ok`: it failed, took too long or is not installed."""

    ok: bool
    text: str
    error: str


def ask(*command: str, timeout_s: float = TIMEOUT_S) -> Answer:
    """Runs one command; never raises."""
    # A user's own SQUEUE_FORMAT, SQUEUE_STATES, SACCT_FORMAT, ... would change what it prints.
    # Without the bit string length, squeue and sacct cut array expressions after 64 characters.
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    plain = {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            command,
            env=outer | plain,
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
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line)
