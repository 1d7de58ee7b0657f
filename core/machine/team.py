"""A team: the processes that share one run (`gpus_per_run`), how they divide it and communicate.

Rank 0 leads: only it holds the claim and writes into the run folder. The others exit when it does,
so that no GPU is held by a run that has ended. A single process is a team, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import TeamError, first_line
from core.store import shapes
from core.store.files import remove
from core.store.json_files import read_json, write_json

JOIN_S = 600.0
"""Seconds in which all processes must join; importing torch from a cold disk takes minutes."""
PATIENCE = timedelta(days=2)
"""How long a process waits for the others: one share of AutoAttack may take a day longer."""
WORD_S = 5.0
"""Seconds to wait for the last message of a process whose connection broke."""
BUCKET = 2**23
"""Numbers summed per message (32 MiB in float32): few messages that need little memory."""


@dataclass(frozen=True)
class Team:
    """Processes 0 to size - 1. `total`, `mean`, `gather`, `share` and `part` must be called by all
    of them in the same order, and raise TeamError (except `part`) if a process is gone."""

    rank: int = 0
    size: int = 1
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mine(self, rows: Tensor) -> Tensor:
        """This process's share of rows [N]: every size-th one, so that images of a class, which may
        be consecutive, are divided evenly."""
        return rows[self.rank :: self.size]

    def total(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over the processes, in place, in a few large messages."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _heard():
                dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def mean(self, tensors: Iterable[Tensor]) -> None:
        """Average each tensor over the processes, in place."""
        if self.size == 1:
            return
        tensors = list(tensors)
        self.total(tensors)
        for tensor in tensors:
            tensor /= self.size

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of ranks; every process gets the list."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _heard():
            dist.all_gather_object(values, value)  # through the CPU
        return values

    def share(self, value: Any = None) -> Any:
        """The leader's value; every process gets it."""
        return self.gather(value)[0]

    def tell(self, word: dict[str, Any]) -> None:
        """Send the leader a last message: why this process ends."""
        with contextlib.suppress(RuntimeError):
            self.store.set("word", json.dumps(word))

    def word(self) -> dict[str, Any] | None:
        """The last message of a process that has ended, for the leader; None if there is none."""
        try:
            self.store.wait(["word"], timedelta(seconds=WORD_S))
        except RuntimeError:
            return None
        word: dict[str, Any] = json.loads(self.store.get("word"))
        return word

    def part(self) -> None:
        """Wait until all processes have finished, then disconnect."""
        if self.size == 1:
            return
        if self.leads:
            self.store.set("over", "")
        with contextlib.suppress(TeamError):  # a process that is gone has nothing left to do
            self.gather(None)
        dist.destroy_process_group()


ALONE = Team()


def join(file: Path, rank: int, size: int, *, local_rank: int = 0) -> Team:
    """The team of `size` processes that call this with the same `file`, through which the leader
    tells the others its address. Raises TeamError if they do not connect within ten minutes."""
    cuda = torch.cuda.is_available()
    if cuda:  # a rank may see only its own GPU, or all GPUs of the node
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    connect = _listen(file, size) if rank == 0 else _found(file)
    with _heard():
        store = connect()
        if rank:
            threading.Thread(target=_exit_with_leader, args=(connect(),), daemon=True).start()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.PrefixStore("team", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    if rank == 0:
        remove(file)
    return Team(rank, size, store)


def _listen(file: Path, size: int) -> Callable[[], Any]:
    """The leader's side: listen on a free port and write the address to `file`."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "0.0.0.0", 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE
    )
    write_json(file, {"host": socket.gethostname(), "port": store.port})
    return lambda: store


def _found(file: Path) -> Callable[[], Any]:
    """The others' side: connect to the address in `file`. If nobody listens there, an earlier job
    of the same id left the file: wait until it is overwritten."""
    end = time.monotonic() + JOIN_S
    while time.monotonic() < end:
        place = read_json(file, shapes.Place)
        if place:
            try:
                return _client(place)
            except RuntimeError:
                pass
        time.sleep(0.2)
    raise TeamError(f"rank 0 did not publish its address within {JOIN_S:g} s (expected in {file})")


def _client(place: dict[str, Any]) -> Callable[[], Any]:
    def connect() -> Any:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place["host"], place["port"], is_master=False, timeout=timedelta(seconds=5)
        )
        store.set_timeout(PATIENCE)
        return store

    connect().num_keys()  # raises if nobody listens there
    return connect


def _exit_with_leader(store: Any) -> None:
    """Exit this process as soon as the leader is gone, whatever it is waiting for: the leader has
    recorded how the run ended."""
    try:
        while not _is_over(store):
            store.num_keys()  # raises if the leader is gone; it may be silent longer than PATIENCE
    except Exception:
        os._exit(0)


def _is_over(store: Any) -> bool:
    with contextlib.suppress(RuntimeError):
        store.wait(["over"], PATIENCE)
        return True
    return False


@contextmanager
def _heard() -> Iterator[None]:
    """Turns torch's RuntimeError for a broken connection into TeamError."""
    try:
        yield
    except RuntimeError as error:
        raise TeamError(f"another process of this run is gone ({first_line(error)})") from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Splits the tensors, in order, into lists of one dtype, each small enough for one message."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(other.numel() for other in bucket)
        if bucket and (bucket[0].dtype != tensor.dtype or size + tensor.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
