"""Distances to the boundary: exact where that is known, sound everywhere, as small as other attacks
find them, and the same after an interruption."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from core.attack.apgd import rivalry_of
from core.attack.approaches import APPROACHES
from core.attack.minimal import END, HALVINGS
from core.config import ConfigError, EvalConfig
from core.config.evaluation_kinds import MinimalNorm, RobustAccuracy
from core.config.fmn import DESCENTS, RIVALS
from core.data.splits import Split
from core.evaluation import minimal, queue, robust
from core.evaluation.measured import Context
from core.evaluation.minimal import Distances, search
from core.machine.team import Team
from core.run import pipeline
from core.store import snapshot
from core.store.files import write_atomic
from core.store.snapshot import Snapshot

STRENGTHS = [i / 255 for i in range(9)]
ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def look(model: nn.Module, split: Split, **options: Any) -> Distances:
    how: dict[str, Any] = {"steps": 40, "batch": 32, "device": tiny.CPU, **options}
    return search(model, split, **how)


@pytest.fixture(scope="module")
def found(trained: tiny.Trained) -> Distances:
    return look(trained.net, trained.test.first(96), margins=True)


class Linear(nn.Module):
    """Logits of a small slope: boundaries lie well within the range of pixels around grey."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.head = nn.Linear(48, classes, bias=False)
        self.head.weight = nn.Parameter(torch.randn(classes, 48, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1) - 0.5)
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 12])
def test_distances_of_a_linear_network_are_exact(norm: Any, classes: int) -> None:
    """The nearest of all boundaries, each of which is (f_i - f_j) / ||w_i - w_j|| away."""
    model = Linear(classes)
    noise = torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    split = Split((noise * 3 + 128).byte(), torch.zeros(24, dtype=torch.long))
    x, _ = split.batch(torch.arange(24), tiny.CPU)
    logits, weights = model(x).detach(), model.head.weight.detach()
    own = logits.argmax(1)
    each = (logits.gather(1, own[:, None]) - logits) / torch.stack(
        [(weights[i] - weights).norm(p=DUAL[norm], dim=1) for i in own]
    )
    truth = each.scatter(1, own[:, None], math.inf).amin(1).numpy()
    found = look(model, split, norm=norm, margins=True, steps=100)
    assert found.arrays["distance"] == pytest.approx(truth, rel=0.01)
    assert (found.arrays["distance"] >= truth * (1 - 1e-4)).all()
    assert found.arrays["feature_margin"] == pytest.approx(truth, rel=1e-4)
    assert found.arrays["predicted"].tolist() == own.tolist()
    top = logits.topk(2).values
    assert found.arrays["logit_margin"] == pytest.approx((top[:, 0] - top[:, 1]).numpy(), rel=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_distance_is_that_of_an_image_that_is_taken_for_the_target(
    trained: tiny.Trained, norm: Any
) -> None:
    x, _ = trained.batch(0, 24)
    path = APPROACHES[norm].start(x, tiny.CLASSES)
    looks = 0
    while bool((path.stage != END).any()):
        path.observe(*rivalry_of(trained.net, path.point, path.own, path.rival), 20)
        assert path.point.isfinite().all() and 0 <= path.point.min() <= path.point.max() <= 1
        looks += 1
    assert looks < RIVALS + 20 + 20 + HALVINGS, "images that are finished stay finished"
    with torch.no_grad():
        seen = trained.net(path.best).argmax(1)
    assert torch.equal(seen, path.target) and not bool((seen == path.own).any())
    moved = (path.best - x).flatten(1).norm(p=ORDERS[norm], dim=1)
    assert torch.allclose(moved, path.distance, rtol=1e-3)


def test_it_is_never_weaker_than_apgd(trained: tiny.Trained, found: Distances) -> None:
    """On a network so small that both find nearly everything."""
    split = trained.test.first(96)
    apgd = queue.search(trained.net, split, STRENGTHS, steps=10, batch=48, device=tiny.CPU)
    counts = [int((found.to_wrong > eps).sum()) for eps in STRENGTHS]
    theirs = [apgd.correct(level) for level in range(len(STRENGTHS))]
    assert counts[0] == theirs[0]
    assert all(a <= b + 1 for a, b in zip(counts, theirs, strict=True))
    assert sum(counts) <= sum(theirs)


def test_margins_are_of_predictions_and_labels_spare_the_wrong(
    trained: tiny.Trained, found: Distances
) -> None:
    """Both from one attack: an image that is right is as far from being wrong as from being taken
    for anything else."""
    spared = look(trained.net, trained.test.first(96))
    right = found.arrays["correct"]
    assert 0 < (~right).sum() < 20
    assert (found.arrays["distance"][~right] > 0).all()
    assert not spared.arrays["distance"][~right].any()
    assert np.allclose(spared.to_wrong, found.to_wrong, rtol=0.02)
    least = (tiny.CLASSES - 1 + DESCENTS["linf"] + 40 + HALVINGS) * right.sum() + (~right).sum()
    assert least <= spared.forwards <= 1.1 * least
    assert 0 < spared.forwards - spared.backwards <= HALVINGS * right.sum()


def test_in_linf_the_size_of_images_does_not_matter(
    trained: tiny.Trained, found: Distances
) -> None:
    """Each pixel repeated eight times eight: the same perturbations in l-inf, eight times as long
    in l2."""
    split = trained.test.first(48)
    pixels = split.images.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    enlarged = look(
        nn.Sequential(nn.AvgPool2d(8), trained.net), Split(pixels, split.labels), margins=True
    )
    first = found.arrays["distance"][:48]
    assert enlarged.arrays["distance"] == pytest.approx(first, rel=0.01)


def test_in_l1_more_descents_end_nearer_than_a_longer_one(
    trained: tiny.Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distances() -> Any:
        split = trained.test.first(24)
        return look(trained.net, split, norm="l1", steps=100, margins=True).arrays["distance"]

    several = distances()
    monkeypatch.setitem(DESCENTS, "l1", 1)
    assert (several / distances()).mean() < 0.98


class Stop(Exception):
    pass


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_it_goes_on_with_the_same_bits(
    trained: tiny.Trained, tmp_path: Path, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    split, how = trained.test.first(9), {"steps": 4, "batch": 4, "norm": norm, "margins": True}
    calm, file = look(trained.net, split, **how), tmp_path / "s"
    for at in (2, 9, 20):
        looks = 0

        def progress(done: int, at: int = at) -> None:
            nonlocal looks
            looks += 1
            if looks == at:
                raise Stop

        with pytest.raises(Stop):
            look(trained.net, split, progress=progress, snapshot=Snapshot(file), **how)
        resumed = look(trained.net, split, snapshot=Snapshot(file), **how)
        for name, values in calm.arrays.items():
            assert np.array_equal(resumed.arrays[name], values), name
        assert (resumed.forwards, resumed.zero_gradient_images) == (
            calm.forwards,
            calm.zero_gradient_images,
        )
        file.unlink()


def test_processes_share_the_images(trained: tiny.Trained, found: Distances) -> None:
    parts = []

    class Third(Team):
        def gather(self, value: Any) -> list[Any]:
            parts.append(value)
            return [value] if len(parts) < 3 else [*parts]

    for rank in range(2):
        with pytest.raises(Exception, match="expected each of 96 images evaluated once"):
            look(trained.net, trained.test.first(96), margins=True, team=Third(rank, 3))
    whole = look(trained.net, trained.test.first(96), margins=True, team=Third(2, 3))
    assert np.allclose(whole.arrays["distance"], found.arrays["distance"], rtol=0.05)
    assert np.array_equal(whole.arrays["predicted"], found.arrays["predicted"])
    assert whole.forwards == pytest.approx(found.forwards, rel=0.02)


def test_images_without_a_usable_gradient_are_counted_and_soon_given_up(
    trained: tiny.Trained,
) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * 0 + torch.tensor([9.0, 0.0, 1.0])

    class Broken(nn.Module):
        """Its gradient is not a number."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([9.0, 0.0, 1.0]) + (x.flatten(1)[:, :3] * 0).sqrt()

    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * torch.nan

    split = Split(tiny.noise(4).images, torch.tensor([0, 1, 0, 2]))
    for model in (Flat(), Broken()):
        seen = look(model, split)
        assert seen.arrays["distance"].tolist() == [math.inf, 0, math.inf, 0]
        assert seen.arrays["target"].tolist() == [-1, 0, -1, 0]
        assert seen.zero_gradient_images == 2 and seen.forwards == 2 + 2 * (2 + DESCENTS["linf"])
    seen = look(Overflowing(), split, margins=True)
    assert not seen.arrays["correct"].any() and not seen.arrays["distance"].any()


def test_feature_margins_need_a_linear_head(trained: tiny.Trained) -> None:
    """Whatever it is called: that of the tiny network has no name. Logits scaled afterwards have
    none."""
    seen = look(trained.net, trained.test.first(2), margins=True, steps=1)
    assert "feature_margin" in seen.arrays
    model = Linear(4)
    model.register_forward_hook(lambda _, __, logits: logits * 2)
    scaled = look(model, tiny.noise(2, size=4), margins=True, steps=1)
    assert "feature_margin" not in scaled.arrays and "logit_margin" in scaled.arrays


def test_rows_critical_levels_and_the_exact_integral_say_the_same() -> None:
    found = Distances(
        {
            "distance": np.array([0.5, 2.5, 1.0, np.inf], np.float32) / np.float32(255),
            "correct": np.array([True, True, False, True]),
        }
    )
    asked = EvalConfig.parse({"attack": "fmn", "epsilons": "0..2/255"})
    assert isinstance(asked, MinimalNorm) and asked.steps == 100
    whole = minimal.measured(asked, found)
    assert [row["correct"] for row in whole.rows] == [3, 2, 2]
    assert whole.arrays["critical"].tolist() == [1, 3, 0, 3]
    exact = [0.75, (0.5 + 1 + 1) / 4, (0.25 + 1 + 1) / 4]
    assert [row["expected"] for row in whole.rows] == pytest.approx(exact)
    assert whole.expected == pytest.approx(exact[-1])
    assert whole.extras["trapezoid"] == pytest.approx((3 / 2 + 2 + 2 / 2) / 4 / 2)
    assert whole.extras["unbroken"] == 1
    weighted = EvalConfig.parse({**asked.to_dict(), "prior": [1, 0, 3]})
    assert isinstance(weighted, MinimalNorm)
    assert minimal.measured(weighted, found).expected == pytest.approx((3 + 3 * 2) / 4 / 4)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"margins": True, "images": 49}, "margins are compared over at least 50 images, got 49"),
        ({"mode": "fast"}, "mode: does not apply to attack 'fmn'"),
        ({"margins": 3}, "margins: "),
    ],
)
def test_bad_input(data: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        EvalConfig.parse({"attack": "fmn", **data})


def test_tasks_with_too_few_classes_are_refused_before_anything_runs() -> None:
    plain, margins = (
        EvalConfig.parse({"attack": "fmn", "margins": asked}) for asked in (False, True)
    )
    assert plain.problem(32, 2) is None and margins.problem(32, 3) is None
    assert "needs a task with at least 2 classes, got 1" in (plain.problem(32, 1) or "")
    assert "margins: true: needs a task with at least 3 classes, got 2" in (
        margins.problem(32, 2) or ""
    )
    assert "margins" not in EvalConfig.parse({}).to_dict()
    small = EvalConfig.parse(margins.shrunk().to_dict())
    assert isinstance(small, MinimalNorm) and small.margins and small.steps == 1


def test_l1_has_its_own_default_and_earlier_ids_stay() -> None:
    def asked(**more: Any) -> EvalConfig:
        return EvalConfig.parse({"attack": "fmn", "epsilons": [0, 1], **more})

    assert asked(norm="l1", steps=100).id == "fmn100-l1-test-18c8c3ce2b640697"
    assert asked(norm="l2").id == "fmn100-l2-test-8b998c74c6bb8e81"
    assert asked(norm="l1").id == asked(norm="l1", steps=216).id
    assert EvalConfig.parse(asked(norm="l1").to_dict()) == asked(norm="l1")


def test_w_and_b_has_the_integral_too() -> None:
    asked = EvalConfig.parse({"attack": "fmn", "epsilons": [0, "8/255"]})
    assert isinstance(asked, MinimalNorm)
    rows = [
        {"norm": "linf", "epsilon": "0", "n": 4, "correct": 4, "expected": 1.0},
        {"norm": "linf", "epsilon": "8/255", "n": 4, "correct": 0, "expected": 0.3},
    ]
    summary = pipeline._curve("test/fmn-100", asked, rows, tiny.config(epsilon_g="8/255"))
    assert summary["test/fmn-100/expected"] == 0.3 and summary["test/fmn-100/eps8"] == 0


def test_a_second_opinion_is_written_and_changes_no_accuracy(
    trained: tiny.Trained, tmp_path: Path, found: Distances
) -> None:
    """FMN on the first survivors of each strength, here all of them."""
    split = trained.test.first(40)
    asked = EvalConfig.parse({"epsilons": "0..3/255", "steps": 4, "audit": True})
    assert isinstance(asked, RobustAccuracy)
    alone = asked.model_copy(update={"audit": False})
    assert alone.id == EvalConfig.parse({"epsilons": "0..3/255", "steps": 4}).id != asked.id
    context = Context(batch=20, device=tiny.CPU, part=tmp_path / "part")
    plain, audited = (robust.measure(one, trained.net, split, context) for one in (alone, asked))
    assert plain.rows == audited.rows and "opinion" not in plain.extras
    assert audited.forwards > plain.forwards
    assert asked.passes(40, 0.5) > alone.passes(40, 0.5)
    critical, distance = plain.arrays["critical"], found.to_wrong[:40]
    for level, one in enumerate(audited.extras["opinion"], start=1):
        survivors = critical > level
        assert (one["epsilon"], one["images"]) == (f"{level}/255", survivors.sum())
        broken = int((distance[survivors] <= level / 255).sum())
        assert abs(one["broken"] - broken) <= 1


def test_a_second_opinion_survives_a_kill(
    trained: tiny.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = trained.test.first(12)
    asked = EvalConfig.parse({"epsilons": [0, "2/255"], "steps": 1, "audit": True})
    assert isinstance(asked, RobustAccuracy)
    context = Context(batch=6, device=tiny.CPU, part=tmp_path / "part")
    whole = robust.measure(asked, trained.net, split, context)
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    writes: list[Path] = []

    def write(path: Path, content: Any) -> None:
        writes.extend([path] * ("audit" in path.name))
        if len(writes) == 8:
            raise KeyboardInterrupt
        write_atomic(path, content)

    with pytest.raises(KeyboardInterrupt):
        robust.measure(asked, trained.net, split, replace(context, write=write))
    assert writes[0].is_file()
    monkeypatch.setattr(snapshot, "EVERY_S", 300.0)
    taken: list[bool] = []
    resume = minimal._Queue.resume

    def watch(queue: Any, state: Any, slots: Any) -> int:
        taken.append(state is not None)
        return resume(queue, state, slots)

    monkeypatch.setattr(minimal._Queue, "resume", watch)
    again = robust.measure(asked, trained.net, split, context)
    assert taken == [True] and again.extras == whole.extras and again.rows == whole.rows
    assert (again.forwards, again.backwards) == (whole.forwards, whole.backwards)


def fab(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    package = pytest.importorskip("pyautoattack.fab_pt")
    attack = package.FABAttack_PT(
        model, norm="Linf", n_restarts=1, n_iter=20, eps=1e3, seed=0, device=tiny.CPU
    )
    found: Tensor = attack.perturb(x, y)
    return found


def fmn_of_adv_lib(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    sys.modules.setdefault("visdom", ModuleType("visdom")).__dict__.setdefault("Visdom", object)
    attacks = pytest.importorskip("adv_lib.attacks")
    found: Tensor = attacks.fmn(model, x, y, norm=math.inf, steps=40)
    return found


@pytest.mark.parametrize("oracle", [fab, fmn_of_adv_lib])
def test_distances_are_as_small_as_those_of_other_libraries(
    trained: tiny.Trained, found: Distances, oracle: Any
) -> None:
    x, _ = trained.batch(0, 24)
    own = torch.from_numpy(found.arrays["predicted"][:24]).long()
    other = oracle(trained.net, x, own)
    with torch.no_grad():
        broken = trained.net(other).argmax(1) != own
    theirs = (other - x).flatten(1).abs().amax(1)[broken].numpy()
    assert broken.sum() > 20
    assert found.arrays["distance"][:24][broken.numpy()].mean() <= 1.01 * theirs.mean()
