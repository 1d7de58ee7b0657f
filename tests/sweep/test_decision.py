"""The table that decides where a run stands: one case per rule, in the order of the rules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import DamagedError
from core.store.holder import Holder
from slurm.cluster import JobState
from sweep.state import display, plan
from sweep.state.decision import LOST, RULES, Facts, decide
from sweep.state.pending import Pending
from sweep.state.status import State


def claim(outcome: str | None = None, *, age: float = 400.0, **info: Any) -> Holder:
    """The newest claim on a run, the first, by job 7; its heart beat `age` seconds ago."""
    told = {"job": "7", "pid": 5, "host": "n1"} | ({"outcome": outcome} if outcome else {})
    return Holder(1, told | info, beat=100.0, age=age)


def job(state: str | None, after: int = 0, **more: Any) -> Pending:
    """The promise of job 7, made after so many attempts, and what Slurm says of it."""
    told = JobState(state, current=True, **more) if state else None
    return Pending("7", after, "epsweep-one-0a", told, Path("/no logs"), executor="slurm")


GONE = replace(claim(age=1.0), damage=DamagedError(Path("claim"), "cut off"))
CASES: dict[str, tuple[dict[str, Any], State, str | None, str | None]] = {
    "a process works on it": ({"holder": claim(age=1.0)}, State.RUNNING, None, None),
    "everything the grid asks for is there": (
        {"holder": claim("done", reason="of old"), "result": True, "complete": True},
        *(State.DONE, None, None),
    ),
    "cancelled before any process began it": (
        {"cancel": True, "promise": job("PENDING")},
        *(State.CANCELLED, None, "cancelled before it started"),
    ),
    "asked to stop": ({"cancel": True, "holder": claim()}, State.CANCELLED, None, None),
    "a job is on its way to it": (
        {"holder": claim("failed"), "promise": job("PENDING", 1, reason="Priority")},
        *(State.PENDING, None, "Priority"),
    ),
    "its job cannot even begin it": (
        {"promise": job("FAILED", exit_code=1)},
        *(State.FAILED, "job"),
        "its job ended before the run began: its process ended by exit code 1",
    ),
    "no process ever began it": (
        {"promise": job("TIMEOUT")},
        *(State.NEW, None, "its job ended before the run began: time limit"),
    ),
    "a file cannot be read": (
        {"holder": claim("done"), "damaged": "result.json: cut off"},
        *(State.DAMAGED, "damaged", "result.json: cut off"),
    ),
    "its images or weights have changed": (
        {"holder": claim("done"), "result": True, "complete": True, "changed": "other images"},
        *(State.STALE, "stale", "other images"),
    ),
    "it failed": (
        {"holder": claim("failed", kind="oom", reason="full")},
        *(State.FAILED, "oom", "full"),
    ),
    "it was cancelled": ({"holder": claim("cancelled")}, State.CANCELLED, None, None),
    "trained, but an evaluation is missing": (
        {"holder": claim("done"), "result": True},
        *(State.UNEVALUATED, None, None),
    ),
    "its job ended in a way that would repeat": (
        {"holder": claim(), "promise": job("OUT_OF_MEMORY")},
        *(State.FAILED, "memory", "out of memory (host)"),
    ),
    "its job was cancelled": (
        {"holder": claim(), "promise": job("CANCELLED")},
        *(State.CANCELLED, "cancelled", "its job was cancelled"),
    ),
    "its job ended in another way": (
        {"holder": claim(), "promise": job("PREEMPTED")},
        *(State.INTERRUPTED, "preempted", "preempted"),
    ),
    "its process is silent": (
        {"holder": claim(), "promise": job("RUNNING", started=50.0)},
        *(State.INTERRUPTED, "hung", "no heartbeat for 400 s: process 5 on n1 hangs or is lost"),
    ),
    "its process is gone": ({"holder": GONE}, State.INTERRUPTED, "lost", LOST["reason"]),
    "it was stopped part-way": (
        {"holder": claim("interrupted", kind="stopped", reason="stopped by SIGTERM")},
        *(State.INTERRUPTED, "stopped", "stopped by SIGTERM"),
    ),
}


def fits(facts: Facts) -> str:
    """The name of the rule that decides."""
    return next(name for name, rule in RULES.items() if rule.when(facts))


@pytest.mark.parametrize("name", RULES)
def test_each_rule_decides_its_case(name: str) -> None:
    known, state, kind, reason = CASES[name]
    facts = Facts(3, **known)
    assert fits(facts) == name
    found, told = decide(facts)
    assert (found, told.get("kind"), told.get("reason")) == (state, kind, reason)
    assert told.get("attempts") == (1 if "holder" in known else None)


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        # Where two rules fit: what the folder holds outweighs what a job promises.
        ({"holder": claim(age=1.0), "promise": job("PENDING")}, "a process works on it"),
        ({"holder": claim("done"), "complete": True, "cancel": True}, "everything the grid"),
        ({"holder": claim("failed"), "cancel": True, "promise": job("PENDING", 1)}, "asked to"),
        # A submission before the end of a run has no more to do for it; a later one has.
        ({"holder": claim("failed"), "promise": job("PENDING")}, "it failed"),
        ({"holder": claim("interrupted"), "promise": job("PENDING")}, "a job is on its way"),
        ({"holder": claim("done"), "damaged": "x", "promise": job("PENDING")}, "a file cannot"),
        ({"holder": claim("done"), "damaged": "x", "promise": job("PENDING", 1)}, "a job is on"),
        # Requeued: its job has started again since the last heartbeat.
        ({"holder": claim(), "promise": job("RUNNING", started=150.0)}, "a job is on its way"),
        # Slurm does not answer, or was not asked: a run waits rather than being queued twice.
        ({"holder": claim(), "promise": job(None)}, "a job is on its way"),
        # Of another job than the one that had the run, the end tells nothing about it.
        ({"holder": claim(job="6"), "promise": job("OUT_OF_MEMORY")}, "its process is silent"),
        (
            {"holder": claim("interrupted"), "promise": job("FAILED", 1, exit_code=1)},
            "its job cannot",
        ),
        # An end that nobody knows the reason of does not hang.
        ({"holder": claim(), "promise": job("COMPLETED")}, "its process is gone"),
    ],
)
def test_the_order_of_the_rules_decides_between_them(known: dict[str, Any], rule: str) -> None:
    assert fits(Facts(3, **known)).startswith(rule)


def test_every_state_has_its_place_and_its_colour() -> None:
    assert {*plan.WORST} == {*State} == {*display.COLOURS}
