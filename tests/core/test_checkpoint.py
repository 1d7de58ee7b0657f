"""Checkpoints: what is read is what was written, or it is passed over and said."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import StoppedError
from core.store import checkpoint
from core.store.folders import RunDir


def state(epoch: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(epoch)
    return {
        "run": "r",
        "model": {"weight": torch.randn(3, 4, generator=generator), "steps": torch.tensor(epoch)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "schedule": {"best": float("-inf"), "start": None},
        "rows": [{"epoch": i, "train_loss": 0.1 * i, "val_epsilon": "4/255"} for i in range(epoch)],
    }


def assert_same(got: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    assert got is not None
    assert got.keys() == {"format", *expected}
    for name, value in expected["model"].items():
        assert torch.equal(got["model"][name], value) and got["model"][name].dtype == value.dtype
    assert got["optimizer"] == expected["optimizer"]
    assert (got["schedule"], got["rows"]) == (expected["schedule"], expected["rows"])


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "r").mkdir()
    return RunDir(tmp_path / "r")


def test_round_trip(run: RunDir) -> None:
    assert checkpoint.load(run) == (None, [])
    checkpoint.save(run, state(1))
    found, remarks = checkpoint.load(run)
    assert_same(found, state(1))
    assert remarks == [] and os.listdir(run.path) == ["checkpoint.pt"]


def test_the_newest_and_the_one_before_it_are_kept(run: RunDir) -> None:
    for epoch in (1, 2, 3):
        checkpoint.save(run, state(epoch))
    assert_same(checkpoint.load(run)[0], state(3))
    run.checkpoint.unlink()
    assert_same(checkpoint.load(run)[0], state(2))
    assert sorted(os.listdir(run.path)) == ["checkpoint.previous.pt"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("written"))
    checkpoint.save(run, state(1))
    checkpoint.save(run, state(2))
    return run


def assert_sound(run: RunDir, content: bytes) -> bool:
    """The file with this content is read as it was written or passed over; True if read."""
    whole = run.checkpoint.read_bytes()
    try:
        run.checkpoint.write_bytes(content)
        found, remarks = checkpoint.load(run)
    finally:
        run.checkpoint.write_bytes(whole)
    assert_same(found, state(1 if remarks else 2))
    for remark in remarks:
        assert remark.startswith("checkpoint.pt is damaged (") and "\n" not in remark
    return not remarks


def test_any_flipped_bit_is_noticed_or_harmless(written: RunDir) -> None:
    """Bytes that nothing depends on (padding, file times) may flip; everything else is noticed,
    whatever part of the container it damages."""
    content = written.checkpoint.read_bytes()
    places = random.Random(0).sample(range(8 * len(content)), 250)
    entry = content.rindex(b"PK\1\2", 0, content.rindex(b"archive/data/0"))
    places += range(8 * entry, 8 * (entry + 60))  # of a tensor, in the table of contents: all
    harmless = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        harmless += assert_sound(written, bytes(damaged))
    assert 0 < harmless < 500


def test_a_truncated_file_is_noticed_at_any_length(written: RunDir) -> None:
    content = written.checkpoint.read_bytes()
    for length in [0, 1, *random.Random(0).sample(range(len(content)), 60), len(content) - 1]:
        assert not assert_sound(written, content[:length])


@settings(max_examples=40)
@given(content=st.binary(max_size=300))
def test_any_other_file_is_passed_over(written: RunDir, content: bytes) -> None:
    assert not assert_sound(written, content)


def test_both_damaged_is_said_twice(run: RunDir) -> None:
    checkpoint.save(run, state(1))
    checkpoint.save(run, state(2))
    run.checkpoint.write_bytes(b"")
    run.previous_checkpoint.write_bytes(b"x" * 100)
    found, remarks = checkpoint.load(run)
    assert found is None
    assert [remark.split(" is damaged")[0] for remark in remarks] == [
        "checkpoint.pt",
        "checkpoint.previous.pt",
    ]


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_that_cannot_be_read_is_not_given_up(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """A file system that fails for a moment must not cost the epochs that a checkpoint holds."""
    checkpoint.save(run, state(1))

    def fail(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.zipfile, "ZipFile", fail)
        with pytest.raises(OSError, match=os.strerror(fault)):
            checkpoint.load(run)
    assert_same(checkpoint.load(run)[0], state(1))


def test_another_format_is_passed_over(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(run, state(1))
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    found, remarks = checkpoint.load(run)
    assert found is None and "format 1, expected 2" in remarks[0]


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def test_a_checkpoint_cannot_carry_code(run: RunDir, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"format": 1, "model": Bomb(trace)}, run.checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(run.checkpoint, weights_only=True)
    found, remarks = checkpoint.load(run)
    assert found is None and len(remarks) == 1
    assert not trace.exists()
    torch.load(run.checkpoint, weights_only=False)
    assert trace.exists(), "the file was harmless: this test shows nothing"


@pytest.mark.parametrize("bytes_left", [0, 500])
def test_a_failing_write_leaves_the_former_one(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, bytes_left: int
) -> None:
    checkpoint.save(run, state(1))
    before = run.checkpoint.read_bytes()

    def full(value: Any, file: Any) -> None:
        file.write(b"x" * bytes_left)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(run, state(2))
    assert run.checkpoint.read_bytes() == before
    assert os.listdir(run.path) == ["checkpoint.pt"], "a draft was left behind"


@pytest.mark.parametrize("reason", [OSError(28, "full"), StoppedError(15), KeyboardInterrupt()])
@pytest.mark.parametrize("writes", [0, 1, 2, 5])
def test_what_interrupts_the_writing_is_what_is_raised(reason: BaseException, writes: int) -> None:
    """A run that is told to stop while it writes a checkpoint is interrupted; it has no bug."""

    class File(io.BytesIO):
        left = writes

        def write(self, data: Any) -> int:
            self.left -= 1
            if self.left == -1:
                raise reason
            return super().write(data)

    with pytest.raises(type(reason)) as raised:
        checkpoint.write(state(2), File())
    assert raised.value is reason


def test_slim_keeps_all_but_the_optimiser(run: RunDir) -> None:
    checkpoint.save(run, state(1))
    checkpoint.save(run, state(2))
    checkpoint.slim(run, state(2))
    found, remarks = checkpoint.load(run)
    assert found is not None and "optimizer" not in found and remarks == []
    assert_same(found | {"optimizer": state(2)["optimizer"]}, state(2))
    assert os.listdir(run.path) == ["checkpoint.pt"]
