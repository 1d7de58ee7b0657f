"""Identifies a process and its machine, and tells whether it still runs."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _machine() -> str:
    """A name for this boot of the kernel and its process namespace, within which pids are valid."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _process_start(pid: int) -> str | None:
    """When the kernel started `pid`, which distinguishes reused pids; "alive" if that cannot be
    read; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:  # it exists, but is another user's
            pass
        return "alive"
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def describe_process(pid: int) -> dict[str, Any]:
    """What distinguishes a process from all others, on any machine, even if its pid is reused."""
    return {"machine": _machine(), "pid": pid, "pid_start": _process_start(pid)}


def process_alive(described: Mapping[str, Any]) -> bool | None:
    """Whether a described process still runs; None if this machine cannot tell."""
    if described["machine"] != _machine():
        return None
    start = _process_start(described["pid"])
    if start == "alive" != described["pid_start"]:
        return None
    return start is not None and start == described["pid_start"]
