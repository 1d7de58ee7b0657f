"""Reads the file an offline W&B run leaves behind: a LevelDB log of protobuf records."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from waiting import until

from core.store.folders import RunDir

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a log, as far as it is written. A record lies in pieces where it crosses a
    block of 32 KiB; every piece has a header of 7 bytes: checksum of type and data, length, type.
    """
    assert b":W&B".startswith(content[:4]), "no W&B file"
    at, pieces = 7, b""
    while at < len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK  # the rest of a block is padding
            continue
        if len(content) < at + 7:
            return
        checksum, length, kind = struct.unpack("<IHB", content[at : at + 7])
        data = content[at + 7 : at + 7 + length]
        if len(data) < length:
            return  # still being written
        assert zlib.crc32(bytes([kind]) + data) == checksum, "damaged"
        at += 7 + length
        pieces = data if kind in (FULL, FIRST) else pieces + data
        if kind in (FULL, LAST):
            yield pieces


def _plain(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        found["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return found


def read(folder: Path) -> dict[str, Any]:
    """The only W&B run in `folder`: id, group, project, config, history (one mapping a step),
    summary, exit code (None: not finished)."""
    from wandb.proto import wandb_internal_pb2 as pb

    (file,) = folder.glob("*.wandb")
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "exit": None}
    for content in _records(file.read_bytes()):
        record = pb.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "group": record.run.run_group}
            found |= {"project": record.run.project}
            found["config"] |= _plain(record.run.config.update)
        elif kind == "history":
            found["history"].append(_plain(record.history.item))
        elif kind == "summary":
            found["summary"] |= _plain(record.summary.update)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def segments(folder: RunDir) -> list[dict[str, Any]]:
    """What the attempts left, oldest first. W&B's own process writes it, and may do so a moment
    after it was told to finish."""
    found = sorted(folder.tracking.glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    until(lambda: all(read(path)["exit"] is not None for path in found))
    return [read(path) for path in found]
