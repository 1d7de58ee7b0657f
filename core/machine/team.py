"""The processes that work on one run together (`gpus_per_run`): what each one takes of it, and how
they agree.

Rank 0 leads: it alone holds the claim and writes into the run folder. The others live as long as
it does and no longer, so that no GPU is held by a run that has ended. One process is a team too.
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
"""Seconds until all processes have to be there; importing torch from a cold disk takes minutes."""
PATIENCE = timedelta(days=2)
"""How long one process waits for the others: a shard of AutoAttack may take a day longer."""
WORD_S = 5.0
"""Seconds to wait for the last word of a process whose connection broke."""
BUCKET = 2**23
"""Numbers summed at once (32 MiB in float32): few messages, and little memory beside the model."""


@dataclass(frozen=True)
class Team:
    """Processes 0 to size - 1; every method but `mine` and `tell` must be called by all of them,
    in the same order, and raises TeamError where one is gone."""

    rank: int = 0
    size: int = 1
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mine(self, rows: Tensor) -> Tensor:
        """This process's part of some rows [N]: every size-th, so that images of one class, which
        lie together in a test split, are shared out evenly."""
        return rows[self.rank :: self.size]

    def total(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over the team, in place; gradients in a few large messages."""
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
        """As `total`, divided by the number of processes."""
        if self.size == 1:
            return
        tensors = list(tensors)
        self.total(tensors)
        for tensor in tensors:
            tensor /= self.size

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in the order of ranks; to all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _heard():
            dist.all_gather_object(values, value)  # through the CPU
        return values

    def share(self, value: Any = None) -> Any:
        """What the leader gives, to all."""
        return self.gather(value)[0]

    def tell(self, word: dict[str, Any]) -> None:
        """Leave a last word for the leader: why this process ends."""
        with contextlib.suppress(RuntimeError):
            self.store.set("word", json.dumps(word))

    def word(self) -> dict[str, Any] | None:
        """For the leader: the last word of a process that has ended, None where there is none."""
        try:
            self.store.wait(["word"], timedelta(seconds=WORD_S))
        except RuntimeError:
            return None
        word: dict[str, Any] = json.loads(self.store.get("word"))
        return word

    def part(self) -> None:
        """The end of the common work: wait for the others, then go."""
        if self.size == 1:
            return
        if self.leads:
            self.store.set("over", "")
        with contextlib.suppress(TeamError):  # nothing is left to be done, by nobody
            self.gather(None)
        dist.destroy_process_group()


ALONE = Team()


def join(file: Path, rank: int, size: int, *, local_rank: int = 0) -> Team:
    """The team of `size` processes that call this with the same `file`, which tells the others
    where the leader listens. Raises TeamError where they do not find each other in ten minutes."""
    cuda = torch.cuda.is_available()
    if cuda:  # each rank sees its own GPU alone, or all of its node
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    connect = _listen(file, size) if rank == 0 else _found(file)
    with _heard():
        store = connect()
        if rank:
            threading.Thread(target=_outlive_not, args=(connect(),), daemon=True).start()
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
    """The leader's side: listens on a port that is free, and writes down where."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "0.0.0.0", 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE
    )
    write_json(file, {"host": socket.gethostname(), "port": store.port})
    return lambda: store


def _found(file: Path) -> Callable[[], Any]:
    """The others' side. A file that leads nowhere was left by a job of the same id: read again."""
    end = time.monotonic() + JOIN_S
    while time.monotonic() < end:
        place = read_json(file, shapes.Place)
        if place:
            try:
                return _client(place)
            except RuntimeError:
                pass
        time.sleep(0.2)
    raise TeamError(f"rank 0 was not heard of in {JOIN_S:g} s (looked in {file})")


def _client(place: dict[str, Any]) -> Callable[[], Any]:
    def connect() -> Any:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place["host"], place["port"], is_master=False, timeout=timedelta(seconds=5)
        )
        store.set_timeout(PATIENCE)
        return store

    connect().num_keys()  # raises where nobody listens any more
    return connect


def _outlive_not(store: Any) -> None:
    """End this process as soon as the leader is gone, whatever it waits for: the leader has said
    how the run ended, and nobody would hear of it from here."""
    try:
        while not _is_over(store):
            store.num_keys()  # raises if the leader is gone; it may work for longer than PATIENCE
    except Exception:
        os._exit(0)


def _is_over(store: Any) -> bool:
    with contextlib.suppress(RuntimeError):
        store.wait(["over"], PATIENCE)
        return True
    return False


@contextmanager
def _heard() -> Iterator[None]:
    """A broken connection as TeamError; torch raises plain RuntimeError for it."""
    try:
        yield
    except RuntimeError as error:
        raise TeamError(f"another process of this run is gone ({first_line(error)})") from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in order, as many at once as fit into one message; of one type each."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(other.numel() for other in bucket)
        if bucket and (bucket[0].dtype != tensor.dtype or size + tensor.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
