"""The `tune:` block of a grid file: which hyper-parameters are searched, how, and how long.

tune:
  trials: 20             # budget of one search: trials completed, diverged or stopped early; 0: no
                         # search, every run takes one random draw from the space
  minutes: 240           # and minutes of all its workers together; no limit by default
  objective: clean       # accuracy on the validation split: clean, adversarial or expected (the
                         # mean of both during training; at the end, measured at five strengths)
  schedule: fix          # trials train under `fix`, every adversarial setting uses the winner and
                         # `standard` has its own search; `each`: every setting has its own
  space: {optim.lr: [1e-5, 1e-1], optim.weight_decay: [1e-5, 1e-1]}   # log-uniform
                         # or optim.rate: [cosine, constant], a choice of values
  separate_head: false   # true: the head has its own values, from the same ranges; under
                         # protocol: linear, which trains only the head, they are the only ones
  epochs: null           # of a trial; by default those of the run
  grace: 1               # epochs before a trial may be stopped
  reduction: 3           # one in 3 trials continues at grace, 3 grace, 9 grace, ... epochs
  least: 10              # results of searches with fewer trials are flagged
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator, StrictBool, ValidationError

from core.config import Optim, RunConfig, nearest, problems
from core.config.parts import TRAINS, Protocol
from core.config.values import Count, Number, Part
from core.store.records import Goal
from sweep.grid.fields import show
from sweep.grid.file import GridFile

RATES = ("optim.lr", "optim.weight_decay", "optim.head_lr", "optim.head_weight_decay")
"""Fields searched on a logarithmic scale."""
CHOICES = {"optim.rate": get_args(Optim.model_fields["rate"].annotation)}
"""Field -> the values it may take, for fields that are a choice."""
SPACE = (*RATES, *CHOICES)
Range = tuple[float, float] | tuple[str, ...]
"""Lowest and highest value, or the values to choose from."""
RANGE = (1e-5, 1e-1)
"""The paper's range, for learning rate and weight decay alike."""


def _space(value: object) -> dict[str, Range]:
    """A validated space. Raises ValueError unless it maps known fields to ranges."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"expected a mapping of fields to ranges, got {show(value)}")
    return {name: _range(name, ends) for name, ends in value.items()}


def _range(name: object, given: object) -> Range:
    ends = tuple(given) if isinstance(given, list | tuple) else ()
    if name in CHOICES:
        known = CHOICES[str(name)]
        if len(ends) < 2 or len({*ends}) < len(ends) or not {*ends} <= {*known}:
            raise ValueError(
                f"{name}: expected two or more of {', '.join(known)}, got {show(given)}"
            )
        return ends
    if name not in RATES:
        raise ValueError(f"'{name}' cannot be searched{nearest(str(name), SPACE)}")
    if len(ends) != 2 or not all(type(end) in (int, float) for end in ends):
        raise ValueError(f"{name}: expected [lowest, highest], got {show(given)}")
    low, high = ends
    if not 0 < low < high:
        raise ValueError(f"{name}: expected 0 < lowest < highest, got [{low:g}, {high:g}]")
    return float(low), float(high)


class Tune(Part):
    """The block's fields. There is one search for each (backbone, dataset, eps_g), and for every
    other difference between runs except schedule and seed."""

    trials: Annotated[int, Field(strict=True, ge=0)] = 20
    minutes: Annotated[Number, Field(gt=0)] | None = None
    objective: Goal = "clean"
    schedule: Literal["fix", "each"] = "fix"
    space: Annotated[dict[str, Range], PlainValidator(_space)] = Field(
        default={"optim.lr": RANGE, "optim.weight_decay": RANGE}
    )
    separate_head: StrictBool = False
    epochs: Count | None = None
    grace: Count = 1
    reduction: Annotated[int, Field(strict=True, ge=2)] = 3
    least: Count = 10

    @cached_property  # asked for each of thousands of runs
    def ranges(self) -> dict[str, Range]:
        """Field -> range, including the head's own fields if it has separate ones."""
        found = dict(self.space)
        for name in ("lr", "weight_decay") if self.separate_head else ():
            if f"optim.{name}" in found:
                found.setdefault(f"optim.head_{name}", found[f"optim.{name}"])
        return {name: found[name] for name in SPACE if name in found}

    @property
    def shares_winner(self) -> bool:
        """Whether all settings that attack share one search, under `fix`."""
        return {"fix": True, "each": False}[self.schedule]

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Searched field of the optimiser -> its default."""
        names = (name.rpartition(".")[2] for name in self.ranges)
        return {name: Optim.model_fields[name].default for name in names}

    def ranges_of(self, protocol: Protocol) -> dict[str, Range]:
        """`ranges` for runs of a protocol: if it trains only the head, the head's ranges take the
        place of the others."""
        if any(TRAINS[protocol]):
            return self.ranges
        head = {
            name.replace("head_", ""): self.ranges[name] for name in self.ranges if ".head_" in name
        }
        return {name: ends for name, ends in (self.ranges | head).items() if ".head_" not in name}


def read(file: GridFile) -> Tune | None:
    """The block of a grid file, or None if it has none or a bad one. Problems, and fields that are
    both searched and set, are noted in `file`."""
    if "tune" not in file.data:
        return None
    given = file.data["tune"]
    if not isinstance(given, dict):
        file.problem(("tune",), f"tune: expected a mapping, got {show(given)}")
        return None
    try:
        tune = Tune.model_validate(given)
    except ValidationError as error:
        for key, line in problems(error, Tune):
            # Names in the space contain dots, so the field is found in the message, not in the key.
            field = [name for name in SPACE if key.startswith("space") and name in line]
            file.problem(("tune", key.partition(".")[0], *field[:1]), f"tune.{line}")
        return None
    _check_unset(file, tune)
    return tune


def _check_unset(file: GridFile, tune: Tune) -> None:
    for place in file.places:
        steps = [str(step) for step in place[1:] if not isinstance(step, int)]
        # An axis that sets several fields has its own name in front of theirs.
        for field in {".".join(steps), ".".join(steps[1:])} & tune.ranges.keys():
            if place[0] in ("base", "grid", "zip", "include"):
                line = file.line(("tune", "space", field))
                file.problem(place, f"{field}: searched by tune (line {line}), do not set it too")


def check(file: GridFile, tune: Tune, configs: Iterable[RunConfig]) -> None:
    """Note combinations that are not allowed, within the block and with the runs."""
    configs = [*configs]
    if any(config.parent for config in configs):
        what = "the rates found would change the ids of runs from whose weights others begin"
        file.problem(("tune",), f"tune: {what}; leave out weights: {{run: ...}}")
    if not all(config.schedule.trains for config in configs):
        what = "schedule none trains nothing; put such networks into another grid"
        file.problem(("tune",), f"tune: {what}")
    if tune.epochs and not tune.shares_winner:
        what = "shorter trials need schedule: fix, as hinges are whole epochs of the full run"
        file.problem(("tune", "epochs"), f"tune.epochs: {what}")
