"""AutoAttack on survivors: what it is given, what is believed of it, and going on after a stop.

The package is optional, so a stand-in with its interface is attacked with here; the last test uses
the real one where it is installed.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from core.config import AutoAttack, ConfigError, EvalConfig, RobustAccuracy
from core.data.splits import Split
from core.evaluation import autoattack, queue
from core.evaluation.autoattack import Ledger
from core.evaluation.queue import Search
from core.machine.team import ALONE, Team
from core.run import measure
from core.store.claims import Claim
from core.store.files import Write, write_atomic
from core.store.folders import Store
from core.store.json_files import read_json
from slurm.profile import read_profile
from sweep.inputs import needs

STRENGTHS = [0.0, 0.1, 0.2]
IMAGES = 10


class Bright(nn.Module):
    """Class 1 exactly where the mean pixel exceeds 1/2; ten classes."""

    def forward(self, x: Tensor) -> Tensor:
        score = (x.flatten(1).mean(1) - 0.5)[:, None]
        rest = torch.full((len(x), 8), -9.0)
        return torch.cat([-score, score, rest], dim=1)


def split() -> Split:
    """Image i is right, at distance (i + 0.5) / 40 from the edge."""
    grey = torch.tensor([0.5 + (i + 0.5) / 40 for i in range(IMAGES)])
    images = (grey.view(-1, 1, 1, 1).expand(-1, 3, 4, 4) * 255).byte()
    return Split(images, torch.ones(IMAGES, dtype=torch.long))


class Darken:
    """Makes every image as dark as the ball allows, times `reach`; counts what it is given."""

    calls: list[tuple[float, int]]
    reach = 1.0
    stop_after = 10**6
    fitting = 10**6

    def __init__(self, model: nn.Module, *, eps: float, version: str, **options: Any) -> None:
        assert version == "standard" and options["seed"] == 0 and options["norm"] == "Linf"
        self.eps, self.model = eps, model
        self.apgd_targeted = types.SimpleNamespace(n_target_classes=9)
        self.fab = types.SimpleNamespace(n_target_classes=9)

    def run_standard_evaluation(
        self, x: Tensor, y: Tensor, /, *, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        if len(x) > self.fitting:
            raise torch.OutOfMemoryError("no more")
        if len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        assert self.apgd_targeted.n_target_classes == 9 and batch_size == len(x)
        torch.manual_seed(5)
        self.calls.append((self.eps, len(x)))
        return (x - self.reach * self.eps).clamp(0, 1), y


@pytest.fixture
def darken(monkeypatch: pytest.MonkeyPatch) -> type[Darken]:
    chosen = type("Chosen", (Darken,), {"calls": []})
    package = types.ModuleType("pyautoattack")
    package.AutoAttack = chosen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyautoattack", package)
    return chosen


def blind() -> Search:
    """An APGD that only ever broke image 1, at the first strength."""
    critical = np.full(IMAGES, 3, np.int16)
    critical[1] = 1
    return Search(critical, (critical > 2).astype(np.int32), forwards=7)


def run(
    file: Path,
    first: Callable[[], Search] = blind,
    write: Write = write_atomic,
    **how: Any,
) -> Search:
    how |= {"norm": "linf", "batch": 4, "device": tiny.CPU}
    ledger = Ledger(file, write)
    return autoattack.evaluate(first, Bright(), split(), STRENGTHS, ledger=ledger, **how)


# Distances 1/80, 3/80, ... : 0.1 breaks images 0 to 3, 0.2 those up to 7.
EXPECTED = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_only_survivors_are_attacked_and_accuracy_only_falls(
    tmp_path: Path, darken: type[Darken]
) -> None:
    stream = torch.get_rng_state()
    found = run(tmp_path / "part.npz")
    assert found.critical.tolist() == EXPECTED
    assert found.taken.tolist() == [int(level > 2) for level in EXPECTED], "0 is dark, 1 bright"
    # Nine survivors of APGD in fours at 0.1, of which three break, then the other six.
    assert darken.calls == [(0.1, 4), (0.1, 4), (0.1, 1), (0.2, 4), (0.2, 2)]
    assert found.forwards == 7 + sum(count + 1 for _, count in darken.calls)
    assert torch.equal(stream, torch.get_rng_state())


@pytest.mark.parametrize("stop_after", range(5))
def test_goes_on_after_a_stop_without_repeating_a_batch(
    tmp_path: Path, darken: type[Darken], stop_after: int
) -> None:
    darken.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.npz")
    darken.stop_after = 10**6

    def never() -> Search:
        raise AssertionError("APGD was repeated")

    found = run(tmp_path / "part.npz", never)
    assert found.critical.tolist() == EXPECTED and len(darken.calls) == 5
    assert found.forwards == 7 + sum(count + 1 for _, count in darken.calls)


def test_progress_is_that_of_autoattack_not_of_the_apgd_before_it(
    tmp_path: Path, darken: type[Darken]
) -> None:
    told: list[int] = []
    darken.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.npz", progress=told.append)
    assert told[0] == 0 and 0 < told[-1] < IMAGES / 2 + 1
    stopped_at, darken.stop_after = told[-1], 10**6
    run(tmp_path / "part.npz", progress=told.append)
    assert told[3] == stopped_at and told == sorted(told) and told[-1] == IMAGES


def test_a_batch_that_does_not_fit_is_halved_on_the_spot(
    tmp_path: Path, darken: type[Darken]
) -> None:
    """The others of a team have nothing to do again."""
    darken.fitting = 1
    assert run(tmp_path / "part").critical.tolist() == EXPECTED
    darken.fitting = 0
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path / "other")


def test_a_damaged_ledger_means_beginning_again(tmp_path: Path, darken: type[Darken]) -> None:
    run(tmp_path / "part.npz")
    content = (tmp_path / "part.npz").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"nonsense"):
        (tmp_path / "part.npz").write_bytes(damaged)
        assert run(tmp_path / "part.npz").critical.tolist() == EXPECTED


def test_a_ledger_of_an_older_version_has_no_classes(tmp_path: Path, darken: type[Darken]) -> None:
    darken.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.npz")
    stored = dict(np.load(tmp_path / "part.npz"))
    del stored["taken"]
    np.savez(tmp_path / "part.npz", **stored)
    darken.stop_after = 10**6
    found = run(tmp_path / "part.npz")
    assert found.critical.tolist() == EXPECTED and len(darken.calls) == 5
    assert found.taken.tolist() == [-1] * 4 + [0] * 4 + [-1] * 2, "known from the resumption on"


def test_who_is_taken_over_writes_nothing(tmp_path: Path, darken: type[Darken]) -> None:
    def lost(path: Path, write: Any) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path / "part.npz", write=lost)
    assert not (tmp_path / "part.npz").exists()


def test_a_launch_asks_for_the_package_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyautoattack" else find(name)
    )
    local = read_profile("local")
    asked, usual = AutoAttack(), RobustAccuracy()
    needs.require([tiny.config()], store, local, [(tiny.config(), usual)])
    with pytest.raises(ConfigError, match=r"pip install 'epsweep\[autoattack\]'"):
        needs.require([tiny.config()], store, local, [(tiny.config(), asked)])


def test_points_outside_the_ball_break_nothing(tmp_path: Path, darken: type[Darken]) -> None:
    darken.reach = 1.5
    assert run(tmp_path / "part.npz").critical.tolist() == blind().critical.tolist()


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ConfigError, match=r"pip install 'epsweep\[autoattack\]'") as caught:
        run(tmp_path / "part.npz")
    assert len(caught.value.lines) == 1


class Half(Team):
    """The leader of two; the other has just as much to say."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.size


def test_what_half_a_team_has_found_is_not_the_whole(
    tmp_path: Path, darken: type[Darken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that two processes began may be finished by one."""
    monkeypatch.setattr(queue, "search", lambda *_, **__: blind())
    asked = EvalConfig.parse({"attack": "autoattack", "epsilons": [0, 0.1, 0.2]})
    folder = Store(tmp_path).run("r")
    about = {"run": folder, "evaluated": Bright(), "device": tiny.CPU}
    data = types.SimpleNamespace(test=split(), val=split())
    trainer: Any = types.SimpleNamespace(data=data, **about)
    claim, darken.stop_after = Claim.acquire(folder), 1
    trainer.team = Half(0, 2)
    with pytest.raises(KeyboardInterrupt):
        measure.evaluate(asked, trainer, claim, batch=4)
    darken.stop_after, trainer.team = 10**6, ALONE
    measure.evaluate(asked, trainer, claim, batch=4)
    found = read_json(folder.eval_json(asked.id))
    assert found and [(row["correct"], row["n"]) for row in found["rows"]] == [
        (int((np.array(EXPECTED) > level).sum()), IMAGES) for level in range(3)
    ]
    assert claim and not list(folder.path.rglob("*.part"))
    claim.release("done")


@pytest.mark.slow
def test_the_real_package_is_never_above_apgd(tmp_path: Path, trained: tiny.Trained) -> None:
    pytest.importorskip("pyautoattack")
    from core.evaluation.queue import search

    images, strengths = trained.test.first(8), [0.0, 2 / 255]
    how: dict[str, Any] = {"batch": 8, "device": tiny.CPU, "norm": "linf"}

    def first() -> Search:
        return search(trained.net, images, strengths, steps=10, **how)

    found = autoattack.evaluate(
        first,
        trained.net,
        images,
        strengths,
        ledger=Ledger(tmp_path / "part.npz"),
        **how,
    )
    assert bool((found.critical <= first().critical).all())
    assert found.forwards > 1000, "the ensemble did not run"
