"""Work that tests start in processes of their own and kill: a training, a claim, a whole run.

Everything is told through files, because a killed process answers nothing else.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny
import torch
from forks import die

from core.config import EvalConfig
from core.run import pipeline
from core.store import checkpoint
from core.store.claims import Claim
from core.store.files import write_atomic
from core.store.folders import RunDir, Store
from core.training.monitor import Monitor
from core.training.trainer import Trainer

torch.set_num_threads(1)

Moment = tuple[Any, ...]
"""When to die: ('train', epoch), ('validate', epoch), ('write', n, share) or ('replace', n)."""


def trainer(root: Path, fields: Mapping[str, Any], monitor: Monitor | None = None) -> Trainer:
    """The training that is killed: four steps an epoch, with BatchNorm and dropout."""
    config = tiny.config(**fields)
    folder = Store(root).run(config.id)
    return Trainer(config, tiny.dataset(), tiny.net(), folder, device=tiny.CPU, monitor=monitor)


def train(root: Path, fields: Mapping[str, Any], moment: Moment | None) -> None:
    """Train until done or dead; the end state goes to <root>/end.pt, remarks to remarks.txt."""

    def remark(text: str) -> None:
        with open(root / "remarks.txt", "a") as file:
            file.write(text + "\n")

    work = trainer(root, fields, Monitor(remark=remark, progress=_at_progress(moment)))
    arrange(moment)
    work.fit()
    torch.save(work.state(), root / "end.pt")


def _at_progress(moment: Moment | None) -> Callable[[dict[str, Any]], None]:
    if not moment or moment[0] not in ("train", "validate"):
        return lambda state: None

    def progress(state: dict[str, Any]) -> None:
        late = state["share"] * state["epochs"] - state["epoch"] > 0.3  # two of four steps done
        if (state["phase"], state["epoch"]) == moment and (late or moment[0] == "validate"):
            die()

    return progress


def arrange(moment: Moment | None) -> None:
    """Die in the middle of the n-th write of a checkpoint, or before the n-th rename of a file."""
    if moment and moment[0] == "write":
        checkpoint.torch = _HalfSaved(*moment[1:])  # type: ignore[assignment]
    if moment and moment[0] == "replace":
        os.replace = _nth(os.replace, moment[1])


def _nth(act: Callable[..., Any], n: int) -> Callable[..., Any]:
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            die()
        return act(*arguments)

    return counted


class _HalfSaved:
    """torch for core.store.checkpoint, but the n-th save stops after a share of its bytes."""

    def __init__(self, n: int, share: float) -> None:
        self.left, self.share = n, share

    def save(self, state: Any, file: io.BufferedWriter) -> None:
        whole = io.BytesIO()
        torch.save(state, whole)
        self.left -= 1
        if self.left:
            file.write(whole.getvalue())
            return
        file.write(whole.getvalue()[: int(self.share * whole.tell())])
        file.flush()
        die()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def race(folders: list[Path], barrier: Any, results: Path) -> None:
    """Try to claim every folder, in step with the other racers; one line per round: 1 or 0."""
    won = []
    claims = []  # kept: the loser must meet a live owner
    for folder in folders:
        barrier.wait(60)
        claim = Claim.acquire(RunDir(folder))
        won.append("1" if claim else "0")
        claims.append(claim)
    results.write_text("\n".join(won))
    barrier.wait(60)


def take_turns(folder: Path, turns: int, barrier: Any, results: Path) -> None:
    """Claim, work, give up, `turns` times, against others who want the same run."""
    alone, taken = [], 0
    barrier.wait(60)
    while taken < turns:
        claim = Claim.acquire(RunDir(folder))
        if claim is None:
            continue
        taken += 1
        inside = folder / "inside"
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            alone.append(claim.held())
            inside.unlink()
        except FileExistsError:
            alone.append(False)
        claim.release("interrupted")
    results.write_text("\n".join(map(str, alone)))


def claim_and_die(folder: Path) -> None:
    """Acquire, and be gone without a word."""
    claim = Claim.acquire(RunDir(folder), job="77")
    assert claim
    claim.note("something worth keeping")
    die()


def claim_and_wait(folder: Path, environment: dict[str, str]) -> None:
    """Acquire and work until the file `go` appears; then say what this process believes."""
    os.environ.update(environment)
    claim = Claim.acquire(RunDir(folder))
    assert claim
    (folder / "ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / "held").write_text(str(claim.held()))
    claim.release("done")


def write_and_die(path: Path, share: float) -> None:
    """Die while a file is written, or (share 1) when it is written but not yet in its place."""
    text = "x" * 200_000

    def write(file: Any) -> None:
        file.write(text[: int(share * len(text))].encode())
        file.flush()
        if share < 1:
            die()

    if share == 1:
        arrange(("replace", 1))
    write_atomic(path, write)


def execute(root: Path, fields: Mapping[str, Any], evals: list[Any], moment: Moment | None) -> None:
    """A whole run, as a node does it."""
    arrange(moment)
    config, store = tiny.config(**fields), Store(root)
    asked = [EvalConfig.parse(item) for item in evals]
    claim = Claim.acquire(store.run(config.id))
    assert claim
    pipeline.execute(config, asked, store, claim, pipeline.Options(tracking="none", images=20))
    claim.release("done")
