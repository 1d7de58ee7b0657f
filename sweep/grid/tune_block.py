"""The `tune:` block of a grid file: which hyper-parameters are searched, how, and how long.

tune:
  trials: 20             # budget of one search: trials that were completed or stopped early; 0:
                         # no search, every run takes one random draw from the space
  minutes: 240           # and minutes of its workers together; without it no limit
  objective: clean       # accuracy on the validation split: clean, adversarial or expected (the
                         # mean of both while it trains, at last measured at five strengths)
  schedule: fix          # trials train under `fix`, every attacked setting takes the winner
                         # and `standard` has its own search; `each`: every setting has one
  space: {optim.lr: [1e-5, 1e-1], optim.weight_decay: [1e-5, 1e-1]}   # log-uniform
                         # or optim.rate: [cosine, constant], one of some values
  separate_head: false   # true: the head has values of its own, from the same ranges; with
                         # protocol: linear, which trains the head alone, these are all
  epochs: null           # of a trial; by default those of the run
  grace: 1               # epochs before a trial may be stopped
  reduction: 3           # one in so many trials goes on at grace, 3 grace, 9 grace, ... epochs
  least: 10              # results of searches with fewer trials are flagged
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator, StrictBool, ValidationError

from core.config import Optim, RunConfig, nearest, problems
from core.config.values import Count, Number, Part
from sweep.grid.fields import show
from sweep.grid.file import GridFile

RATES = ("optim.lr", "optim.weight_decay", "optim.head_lr", "optim.head_weight_decay")
"""What is searched on a logarithmic scale."""
CHOICES = {"optim.rate": get_args(Optim.model_fields["rate"].annotation)}
"""What is one of some values."""
SPACE = (*RATES, *CHOICES)
Range = tuple[float, float] | tuple[str, ...]
"""Lowest and highest value, or the values to choose from."""
RANGE = (1e-5, 1e-1)
"""The paper's, for learning rate and weight decay."""


def _space(value: object) -> dict[str, Range]:
    """Raises ValueError for what is no mapping of known fields to ranges."""
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
    """A search for each (backbone, dataset, eps_g), or whatever else makes runs of a grid differ
    besides schedule and seed."""

    trials: Annotated[int, Field(strict=True, ge=0)] = 20
    minutes: Annotated[Number, Field(gt=0)] | None = None
    objective: Literal["clean", "adversarial", "expected"] = "clean"
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
        """What is searched of each field, with the head's own where it has some."""
        found = dict(self.space)
        for name in ("lr", "weight_decay") if self.separate_head else ():
            if f"optim.{name}" in found:
                found.setdefault(f"optim.head_{name}", found[f"optim.{name}"])
        return {name: found[name] for name in SPACE if name in found}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Fields of the optimiser that are searched -> their defaults."""
        names = (name.rpartition(".")[2] for name in self.ranges)
        return {name: Optim.model_fields[name].default for name in names}

    def ranges_of(self, protocol: str) -> dict[str, Range]:
        """The same for runs of a protocol: where the head alone trains, its ranges are all."""
        if protocol != "linear":
            return self.ranges
        head = {
            name.replace("head_", ""): self.ranges[name] for name in self.ranges if ".head_" in name
        }
        return {name: ends for name, ends in (self.ranges | head).items() if ".head_" not in name}


def read(file: GridFile) -> Tune | None:
    """The block of a grid file, None where it has none; what is wrong with it, and fields that are
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
            # Of a range, the line tells the field: its name has a dot of its own.
            field = [name for name in SPACE if key.startswith("space") and name in line]
            file.problem(("tune", key.partition(".")[0], *field[:1]), f"tune.{line}")
        return None
    _check_unset(file, tune)
    return tune


def _check_unset(file: GridFile, tune: Tune) -> None:
    for place in file.places:
        steps = [str(step) for step in place[1:] if not isinstance(step, int)]
        # An axis that sets several fields has a name of its own before them.
        for field in {".".join(steps), ".".join(steps[1:])} & tune.ranges.keys():
            if place[0] in ("base", "grid", "zip", "include"):
                line = file.line(("tune", "space", field))
                file.problem(place, f"{field}: searched by tune (line {line}), do not set it too")


def check(file: GridFile, tune: Tune, configs: Iterable[RunConfig]) -> None:
    """Note what does not go together in the block, and with the runs."""
    configs = [*configs]
    if any(config.parent for config in configs):
        what = "the rates found would make other runs of those whose weights others begin with"
        file.problem(("tune",), f"tune: {what}; leave out weights: {{run: ...}}")
    if not all(config.schedule.trains for config in configs):
        what = "schedule none trains nothing; judge such networks in a grid of their own"
        file.problem(("tune",), f"tune: {what}")
    if tune.epochs and tune.schedule == "each":
        what = "shorter trials need schedule: fix, hinges of other schedules lie in whole epochs"
        file.problem(("tune", "epochs"), f"tune.epochs: {what}")
