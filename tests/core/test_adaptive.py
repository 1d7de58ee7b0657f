"""Schedules that watch the training: what they may do, whatever they see, and what they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from seen import seen

from core.attack.apgd import run_apgd
from core.config import ConfigError, RunConfig
from core.config.schedule import sched_hinges
from core.training import schedules
from core.training.adaptive import Curriculum, Instance, Ramp, Target
from core.training.epsilon_schedule import BROKEN, HELD, EpsilonSchedule

RAMPS = ["target", "curriculum", {"kind": "target", "gain": 3, "hold": 0}]
shares = st.floats(0, 1)


def make(schedule: Any, epochs: int) -> EpsilonSchedule:
    fields = {"backbone": "vit", "dataset": "cars", "epochs": epochs, "schedule": schedule}
    return schedules.make(RunConfig.parse(fields))


def follow(made: EpsilonSchedule, lived: Sequence[tuple[float, float]]) -> list[Fraction]:
    """alpha by epoch, with validation accuracy and, under attack, training accuracy given."""
    found = []
    for epoch, (clean, held) in enumerate(lived, start=0):
        found.append(Fraction(made.alpha(epoch)))
        made.observe(seen(epoch, clean, train_adv=held if found[-1] else None))
    return found


@given(lived=st.lists(st.tuples(shares, shares), min_size=1, max_size=97))
def test_without_feedback_target_is_sched_bit_for_bit(lived: list[tuple[float, float]]) -> None:
    epochs = len(lived)
    sched = make("sched", epochs)
    found = follow(make({"kind": "target", "gain": 0}, epochs), lived)
    assert found == [sched.alpha(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("schedule", RAMPS, ids=str)
@given(lived=st.lists(st.tuples(shares, shares), min_size=1, max_size=60))
def test_a_ramp_never_falls_and_keeps_its_deadline(
    schedule: Any, lived: list[tuple[float, float]]
) -> None:
    T1, T2 = sched_hinges(len(lived))
    found = follow(make(schedule, len(lived)), lived)
    assert all(a <= b for a, b in pairwise(found)) and found[0] >= 0
    assert all(alpha == 1 for alpha in found[T2:])
    assert all(alpha > 0 for alpha in found[T1 + 1 :])
    assert sum(alpha > 0 for alpha in found) <= make(schedule, len(found)).attacked_epochs(
        len(found)
    )


def test_a_task_learnt_early_is_attacked_early_and_its_pace_follows_its_accuracy() -> None:
    """50 epochs, T1 = 12, T2 = 37, 4 epochs of waiting: learnt after epoch 5 (.81 of .9 at epoch
    1), so that epoch 6 has the first step, 1/32 of the way."""
    lived = [(0.1, 0.0), (0.81, 0.0), *[(0.9, 0.9)] * 48]
    quick = follow(make("target", 50), lived)
    slow = follow(make("target", 50), [(clean, 0.0) for clean, _ in lived])
    assert quick[:6] == [0] * 6 == slow[:6] and quick[6] == slow[6] == Fraction(1, 32)
    assert quick[7] == quick[6] + 2 * (1 - quick[6]) / 31
    assert slow[7] == slow[6] + (1 - slow[6]) / 31 / 2
    assert quick[20] > 0.6 > 0.4 > slow[20]
    chance = [(0.04, 0.0)] * 50  # flat, but nothing was learnt
    assert follow(make("target", 50), chance)[:13] == [0] * 13


def test_a_curriculum_waits_at_a_level_until_it_is_held() -> None:
    lived = [(0.1, 0.0), *[(0.8, 0.0)] * 10, *[(0.8, 0.41)] * 39]
    found = follow(make("curriculum", 50), lived)
    start = next(epoch for epoch, alpha in enumerate(found) if alpha)
    assert found[start:11] == [Fraction(1, 8)] * (11 - start)  # not half of .8 under attack
    assert found[12:19] == [Fraction(level, 8) for level in range(2, 9)]
    never = follow(make("curriculum", 50), [(0.8, 0.0)] * 50)
    sched = [schedules.hinged(epoch, 12, 37) for epoch in range(50)]
    assert all(max(one, Fraction(1, 8)) == one or one == 0 for one in never)
    assert never[14:] == [max(Fraction(1, 8), Fraction(int(8 * one), 8)) for one in sched[14:]]


@pytest.mark.parametrize("schedule", [*RAMPS, "auto"], ids=str)
@given(lived=st.lists(st.tuples(shares, shares), min_size=2, max_size=40), cut=st.integers(0, 40))
def test_its_state_survives_a_restart_at_any_epoch(
    schedule: Any, lived: list[tuple[float, float]], cut: int
) -> None:
    cut = min(cut, len(lived))
    whole = follow(make(schedule, len(lived)), lived)
    first, second = (make(schedule, len(lived)) for _ in range(2))
    follow(first, lived[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    for epoch, (clean, held) in enumerate(lived[cut:], start=cut):
        assert second.alpha(epoch) == whole[epoch]
        second.observe(seen(epoch, clean, train_adv=held if whole[epoch] else None))


def test_every_image_climbs_by_itself_below_sched() -> None:
    made = make({"kind": "instance", "levels": 4}, 50)
    cap = make("sched", 50)
    for epoch in range(50):
        tried = made.strengths(epoch, 3)
        assert tried is not None and max(tried) <= cap.alpha(epoch) == made.alpha(epoch)
        if epoch == 20:  # cap 8/25: level 1 is tried at 1/4, level 2 would be above
            assert list(tried) == [Fraction(8, 25), Fraction(1, 4), Fraction(1, 4)]
        fates = (HELD, BROKEN, 0) if made.alpha(epoch) else (0, 0, 0)
        made.observe(seen(epoch, 0.5, fates=fates))
        copy = make({"kind": "instance", "levels": 4}, 50)
        copy.restore(json.loads(json.dumps(made.state())))
        assert copy.state() == made.state()
    assert made.state() == {"held": [4, 0, 0]}
    assert list(made.strengths(49, 3) or ()) == [1, Fraction(1, 4), Fraction(1, 4)]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_attack_stops_soon_after_it_succeeds(norm: str) -> None:
    """stop_after = 0: the result is the first wrong point of the same trajectory, if there is one;
    more of it never undoes a success, and as many steps as there are leave out nothing."""
    torch.manual_seed(0)
    model, x = tiny.net(), torch.rand(24, 3, 8, 8)
    y = model(x).argmax(1)
    y[:4] += 1 - 2 * (y[:4] > 0).long()  # wrong without an attack
    size = {"linf": 0.1, "l2": 1.0, "l1": 6.0}[norm]
    how: Any = {"epsilon": size, "steps": 6, "norm": norm}
    whole = run_apgd(model, x, y, **how)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    at_once = run_apgd(model, x, y, **how, stop_after=0)
    spent, calls[:] = sum(calls), []
    late = run_apgd(model, x, y, **how, stop_after=6)
    assert torch.equal(at_once.clean_logits, whole.clean_logits)
    wrong_before = whole.clean_logits.argmax(1) != y
    assert torch.equal(at_once.images[wrong_before], x[wrong_before])
    broken = ~at_once.held & ~wrong_before
    assert broken.sum() > 0 and (model(at_once.images[broken]).argmax(1) != y[broken]).all()
    assert spent < sum(calls) and (whole.held <= late.held).all()
    length = (late.images - x).flatten(1)
    radius = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    assert (length.norm(radius, dim=1) <= size * 1.0001).all()


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"kind": "fix", "hold": 0.3}, "takes no further keys"),
        (
            {"kind": "auto", "hold": 0.3},
            "hold belongs to kind: target or curriculum, not",
        ),
        ({"kind": "curriculum", "gain": 2}, "hold and gain belong to kind: target"),
        ({"kind": "target", "hold": 1}, "less than 1"),
        ({"kind": "target", "gain": -1}, "greater than or equal to 0"),
        ({"kind": "instance", "levels": 0}, "levels"),
        ("targte", "did you mean 'target'"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(schedule: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(schedule, 50)


def test_no_two_settings_share_a_name() -> None:
    def name(**schedule: Any) -> str:
        fields = {"backbone": "vit", "dataset": "cars", "schedule": schedule}
        return RunConfig.parse(fields).setting

    assert name(kind="target") == "target" and name(kind="friendly") == "friendly"
    assert name(kind="target", hold=0.7, gain=0) == "target;hold=0.7;gain=0"
    assert name(kind="instance", levels=4) == "instance;levels=4"
    assert isinstance(make("target", 5), Target) and isinstance(make("curriculum", 5), Curriculum)
    assert isinstance(make("target", 5), Ramp) and isinstance(make("instance", 5), Instance)
