"""Evaluations that are interrupted go on where they were, with the same bits and the same cost;
what was measured of other weights is no part of them."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Trained

from core.attack.trajectory import Linf
from core.config import EvalConfig
from core.evaluation.queue import Search, _Queue, search
from core.run import pipeline
from core.store import snapshot
from core.store.claims import Claim
from core.store.folders import Store
from core.store.json_files import read_json, write_json
from core.store.snapshot import Snapshot

STRENGTHS = [i / 255 for i in range(0, 9, 2)]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)


def look(trained: Trained, **options: Any) -> Search:
    how: dict[str, Any] = {"steps": 4, "batch": 16, "device": tiny.CPU, **options}
    return search(trained.net, trained.test.first(60), STRENGTHS, **how)


class Stop(Exception):
    pass


def interrupted(trained: Trained, at: int, **options: Any) -> None:
    """A search that ends at its at-th step."""
    steps = 0

    def progress(done: int) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise Stop

    with pytest.raises(Stop):
        look(trained, progress=progress, **options)


def same(one: Search, two: Search) -> bool:
    costs = [(s.forwards, s.backwards, s.zero_gradient_images) for s in (one, two)]
    arrays = zip((one.critical, one.taken), (two.critical, two.taken), strict=True)
    return all(np.array_equal(*pair) for pair in arrays) and costs[0] == costs[1]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_it_goes_on_with_the_same_bits(
    trained: Trained, tmp_path: Path, mode: str, norm: str
) -> None:
    how = {"mode": mode, "norm": norm}
    calm = look(trained, **how)
    for at in (1, 7, 12):
        (tmp_path / "s").unlink(missing_ok=True)
        interrupted(trained, at, snapshot=Snapshot(tmp_path / "s"), **how)
        seen: list[int] = []
        resumed = look(trained, snapshot=Snapshot(tmp_path / "s"), progress=seen.append, **how)
        assert same(resumed, calm)
    whole: list[int] = []
    look(trained, progress=whole.append, **how)
    assert len(seen) == len(whole) - 11, "what was known was not done again"


def test_one_that_dies_again_and_again_comes_to_its_end(trained: Trained, tmp_path: Path) -> None:
    for _ in range(5):
        interrupted(trained, 5, snapshot=Snapshot(tmp_path / "s"))
    assert same(look(trained, snapshot=Snapshot(tmp_path / "s")), look(trained))


@pytest.mark.parametrize("other", [{"steps": 3}, {"batch": 15}, {"mode": "fast"}, {"norm": "l2"}])
def test_the_state_of_another_search_is_no_help(
    trained: Trained, tmp_path: Path, other: dict[str, Any]
) -> None:
    interrupted(trained, 9, snapshot=Snapshot(tmp_path / "s"))
    assert same(look(trained, snapshot=Snapshot(tmp_path / "s"), **other), look(trained, **other))


@pytest.mark.parametrize("damage", ["half", "flipped", "empty"])
def test_a_damaged_file_is_passed_over(trained: Trained, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "s"
    interrupted(trained, 9, snapshot=Snapshot(file))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(
        {"half": content[: len(content) // 2], "flipped": content, "empty": b""}[damage]
    )
    assert same(look(trained, snapshot=Snapshot(file)), look(trained))


def test_nothing_is_written_by_one_who_may_not(trained: Trained, tmp_path: Path) -> None:
    def refuse(path: Path, write: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        look(trained, snapshot=Snapshot(tmp_path / "s", refuse))
    assert not (tmp_path / "s").exists()


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    """torch has a complaint of its own, which looks like a bug."""

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    full = Snapshot(tmp_path / "s", lambda path, write: write(Full()))
    with pytest.raises(OSError, match="No space left"):
        full.save({"point": torch.zeros(9000)})


def test_a_short_search_pays_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 300.0)
    look(trained, snapshot=Snapshot(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_run_goes_on_in_the_middle_of_its_evaluation(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = tiny.config(), EvalConfig.parse({"epsilons": "0..4/255", "steps": 3})
    stepped, steps = _Queue.step, 0

    def step(self: _Queue, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 40:  # the validation of two epochs takes 7 steps each
            raise Stop
        return stepped(self, *arguments)

    monkeypatch.setattr(_Queue, "step", step)

    def execute() -> dict[str, Any]:
        claim = Claim.acquire(store.run(config.id))
        assert claim
        try:
            pipeline.execute(
                config, [asked], store, claim, pipeline.Options(tracking="none", eval_batch=8)
            )
        finally:
            claim.release("interrupted")
        return read_json(store.run(config.id).eval_json(asked.id)) or {}

    with pytest.raises(Stop):
        execute()
    evals = store.run(config.id).evals
    assert [file.suffix for file in evals.iterdir()] == [".part"]
    (evals / f".{asked.id}.0of1.part.0123abcd").write_bytes(b"of a writer that was killed")
    resumed, after = execute(), steps - 40
    assert [file.suffix for file in sorted(evals.iterdir())] == [".json", ".npz"]
    store, steps = Store(store.root / "calm"), 40
    calm = execute()
    assert calm["rows"] == resumed["rows"] and calm["forwards"] == resumed["forwards"]
    assert after < steps - 40 - 20


def test_nothing_that_was_measured_of_former_weights_is_kept(store: Store) -> None:
    """The checkpoint of a finished run is gone, and trained elsewhere it may be another model."""
    config = tiny.config()
    first, more = (EvalConfig.parse({"epsilons": f"0..{k}/255", "steps": 1}) for k in (1, 2))
    folder = store.run(config.id)

    def execute(*evals: EvalConfig) -> dict[str, Any]:
        claim = Claim.acquire(folder)
        assert claim
        try:
            return pipeline.execute(config, evals, store, claim, pipeline.Options(tracking="none"))
        finally:
            claim.release("done")

    execute(first)
    of_first = read_json(folder.eval_json(first.id))
    assert of_first
    write_json(folder.eval_json(first.id), of_first | {"host": "elsewhere"})
    (folder.evals / f"{more.id}.0of1.part").write_bytes(b"of other weights")
    execute(first)
    found = read_json(folder.eval_json(first.id))
    assert found and found["host"] == "elsewhere", "nothing was trained: nothing is done again"
    folder.checkpoint.unlink()
    assert set(execute(first, more)["evals"]) == {first.id, more.id}
    found = read_json(folder.eval_json(first.id))
    assert found and "host" not in found and found["rows"] == of_first["rows"]
    assert sorted(file.suffix for file in folder.evals.iterdir()) == 2 * [".json"] + 2 * [".npz"]


def test_what_a_gpu_reads_is_whole(trained: Trained, tmp_path: Path) -> None:
    """Reading moves every tensor to the device, whose memory numpy cannot see."""
    interrupted(trained, 12, snapshot=Snapshot(tmp_path / "s"))
    known = Snapshot(tmp_path / "s")
    known.about = torch.load(known.file, weights_only=True)["about"]
    device, split = torch.device("meta"), trained.test.first(60)
    queue = _Queue(trained.net, split, torch.arange(60), STRENGTHS, 4, device, "exact", Linf.start)
    x, y = split.batch(torch.arange(16), tiny.CPU)
    slots = _Queue(trained.net, split, y, STRENGTHS, 4, tiny.CPU, "exact", Linf.start).enter(
        y, x, y
    )
    assert queue.resume(known.load(device), slots) > 0
    assert slots.clean.is_meta and slots.path.point.is_meta
    assert queue.found.critical.dtype == np.int16 and queue.found.critical.any()
