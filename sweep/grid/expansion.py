"""The combinations of a grid's axes, each as a validated run config.

RunConfig validates every value once, not once per combination: fields that depend on each other
form a group, each group is validated alone, and a run and its delta are assembled from validated
parts. So 100,000 runs cost little more than their hashes, and a bad value is reported once, at its
line.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.config import ConfigError, EvalConfig, RunConfig, own_code
from core.config.names import OF_RUN
from core.config.parts import ADAPTING
from core.config.run import untrained
from core.training import objectives, schedules
from sweep.grid.fields import Axis, Changes, Choice, matches
from sweep.grid.file import GridFile, Place

COUPLED = (
    {"epochs", "schedule", "epsilon_g", "attack", "norm", "validation", "objective"},
    {"protocol", "optim", "lora", "backbone", "image_size", "weights", "normalisation"},
)
"""Sets of fields that RunConfig checks or rewrites together; every other field is judged alone."""
STAND_IN = {"backbone": "vit", "dataset": "fake"}
"""Values of the required fields while other fields are judged."""


_LAST: list[tuple[Any, ...]] = [(), ()]
"""The evaluations whose ids were asked for last, and their ids."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a grid, its setting's name in tables, and the evaluations of its model."""

    config: RunConfig
    setting: str
    evals: tuple[EvalConfig, ...]
    tuned: Mapping[str, Any] | None = field(default=None, compare=False)
    """The search winner whose hyper-parameters it uses, as `sweep.grid.search` records it."""
    id: str = ""
    """Computed from the config if not given."""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.config.id)

    @property
    def eval_ids(self) -> tuple[str, ...]:
        """The ids of its evaluations."""
        if _LAST[0] is not self.evals:  # the runs of a grid share them; an id takes 20 us
            _LAST[:] = self.evals, tuple(item.id for item in self.evals)
        return _LAST[1]

    @property
    def code(self) -> tuple[tuple[str, str], ...]:
        """(import path, digest) pairs of the user's code that it and its evaluations need."""
        return (*self.config.code, *(pair for item in self.evals for pair in item.code))


class Found(NamedTuple):
    """A combination: its config, its setting's name, and the id of the run."""

    config: RunConfig
    setting: str
    id: str
    added: bool = False
    """Whether the file asks for it only as the parent of another."""


@dataclass(frozen=True)
class Verdict:
    """What RunConfig makes of some fields of a combination.

    values: the fields, validated; empty if there are problems. setting: '' without a schedule.
    code: digests of the user's code that the fields name. delta: the values that differ from the
    defaults. dropped: bit i is set if these fields match exclude i, as far as it names them.
    """

    values: dict[str, Any]
    setting: str
    problems: tuple[tuple[Place, str], ...]
    dropped: int
    code: tuple[tuple[str, str], ...] = ()
    delta: Mapping[str, Any] = field(default_factory=dict)

    def whole(self) -> RunConfig:
        """The config, if all its fields were judged and none has a problem."""
        return RunConfig.model_construct(**self.values | {"code": tuple(sorted(self.code))})


@dataclass(frozen=True)
class Group:
    """The axes that set a group of coupled fields, and one verdict per index into those axes."""

    axes: list[int]
    verdicts: dict[tuple[int, ...], Verdict]


def product(
    file: GridFile, base: Choice, axes: Sequence[Axis], exclude: Mapping[Place, Choice]
) -> Iterator[Found]:
    """Every combination of the axes that no exclude drops, the last axis fastest. Problems of
    values, and excludes that drop nothing, go to `file`."""
    *groups, rest = _groups(base, axes, list(exclude.values()))
    constant = rest.verdicts[()]
    template = RunConfig.model_validate(STAND_IN).model_copy(update=constant.values)
    used = 0
    for index in itertools.product(*(range(len(axis)) for axis in axes)):
        values, delta = dict[str, Any](), {**constant.delta}
        setting, found, dropped = constant.setting, constant.problems, constant.dropped
        code = constant.code
        for group in groups:
            verdict = group.verdicts[tuple([index[axis] for axis in group.axes])]
            values.update(verdict.values)
            delta.update(verdict.delta)
            setting = setting or verdict.setting
            found += verdict.problems
            code += verdict.code
            dropped &= verdict.dropped
        used |= dropped
        if dropped:
            continue
        if found:
            report(file, found)
        else:
            if code:
                values["code"] = delta["code"] = tuple(sorted(set(code)))
            config = template.model_copy(update=values)
            if config.parent and config.schedule.trains:
                choice = dict(base)
                for axis, i in zip(axes, index, strict=True):
                    choice |= axis[i]
                yield from with_parent(file, config, setting, choice)
                continue
            if config.schedule.trains:
                yield Found(config, setting, config.id_of(delta))
                continue
            try:  # this also checks groups against each other
                config = untrained(config)
                yield Found(config, setting, config.id)
            except ValueError as error:
                file.problem(("grid",), str(error))
    for number, place in enumerate(exclude):
        if not file.faults and not used >> number & 1:
            file.problem(place, "exclude: matches no combination")


def with_parent(file: GridFile, config: RunConfig, setting: str, choice: Choice) -> Iterator[Found]:
    """A run, preceded by its parent if it begins from another run's weights."""
    if not config.parent:
        yield Found(config, setting, config.id)
        return
    changes, place = choice["weights"]
    fields: Choice = changes.fields
    if not fields:
        return  # its problem is already noted
    kept = {
        key: item
        for key, item in choice.items()
        if key != "weights" and not any(_overlap(key, other) for other in fields)
    }
    verdict = judge(kept | fields, set(RunConfig.model_fields))
    problems = [(at or place, f"weights.run: {line}") for at, line in verdict.problems]
    if not problems and not verdict.values["schedule"].trains:
        problems.append((place, "weights.run: schedule none trains nothing, name a checkpoint"))
    report(file, problems)
    if problems:
        return
    found = [*with_parent(file, verdict.whole(), verdict.setting, kept | fields)]
    yield from (one._replace(added=True) for one in found)
    if found:
        config = config.model_copy(update={"weights": f"{OF_RUN}{found[-1].id}"})
        yield Found(config, setting, config.id)


def _overlap(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def report(file: GridFile, found: Iterable[tuple[Place, str]]) -> None:
    """Note problems at their lines. One without a line (a missing field) is noted only if there is
    no other, from which it may follow."""
    for place, line in sorted(found, key=lambda item: not item[0]):
        if place or not file.faults:
            file.problem(place, line)


def judge(choice: Choice, fields: set[str], exclude: Sequence[Choice] = ()) -> Verdict:
    """Validate `fields` as `choice` sets them, with stand-ins and defaults for the others."""
    data = {key: value for key, value in STAND_IN.items() if key not in fields} | _nested(choice)
    if isinstance(data.get("weights"), Changes):
        data["weights"] = f"{OF_RUN}?"  # until the parent is known
    dropped = sum(
        1 << number
        for number, wanted in enumerate(exclude)
        if all(matches(k, v, choice) for k, (v, _) in wanted.items() if _top(k) in fields)
    )
    config = RunConfig.check(data)
    if isinstance(config, list):
        # A problem between fields has no key; its line begins with the field to change.
        found = tuple((_place_of(k or line.partition(":")[0], choice), line) for k, line in config)
        return Verdict({}, "", found, dropped)
    code, wrong = _own_code(config, fields)
    if wrong:
        return Verdict({}, "", tuple((_place_of(k, choice), line) for k, line in wrong), dropped)
    schedule = data.get("schedule")
    label = schedule.get("name") if isinstance(schedule, dict) else None
    setting = str(label or config.setting) if "schedule" in fields else ""
    values = {name: getattr(config, name) for name in fields}
    delta = {name: value for name, value in config.delta.items() if name in fields}
    return Verdict(values, setting, (), dropped, tuple(code.items()), delta)


def _own_code(config: RunConfig, fields: set[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Import path -> digest of the user's code that these fields name, and what is wrong with it as
    (field, line). It is imported and constructed here, so that failures show before a job."""
    code: dict[str, str] = {}
    wrong = []
    checks: list[tuple[str, str, Callable[[], object]]] = [
        ("backbone", config.backbone, lambda: own_code.fitting(config.backbone, "backbone")),
        ("schedule", config.schedule.kind, lambda: schedules.check(config)),
        ("objective", config.objective.kind, lambda: objectives.make(config.objective)),
    ]
    for name, dotted, check in checks:
        if name in fields and own_code.is_own(dotted):
            try:
                code[dotted] = own_code.digest(dotted)
                check()
            except ConfigError as error:
                wrong.append((name, f"{name}: {error}"))
    return code, wrong


def _groups(base: Choice, axes: Sequence[Axis], exclude: Sequence[Choice]) -> list[Group]:
    """The fields of RunConfig in groups that do not depend on each other, judged. The last group
    holds the fields that no axis sets."""
    parts: list[tuple[set[str], list[int]]] = []
    coupled: tuple[set[str], ...] = COUPLED
    goals = (choice.get("objective.kind") for choice in (base, *itertools.chain(*axes)))
    if any(goal and goal[0] in ADAPTING for goal in goals):
        coupled = (set().union(*COUPLED),)  # only then does `lora` depend on the objective
    for number, axis in enumerate(axes):
        fields = {_top(key) for choice in axis for key in choice}
        fields = fields.union(*(part for part in coupled if fields & part))
        numbers = [number]
        for part in [part for part in parts if part[0] & fields]:
            parts.remove(part)
            fields, numbers = fields | part[0], part[1] + numbers
        parts.append((fields, numbers))
    rest = set(RunConfig.model_fields).difference(*(fields for fields, _ in parts))
    return [_judged(part, base, axes, exclude) for part in [*parts, (rest, [])]]


def _judged(
    part: tuple[set[str], list[int]],
    base: Choice,
    axes: Sequence[Axis],
    exclude: Sequence[Choice],
) -> Group:
    fields, numbers = part
    constant = {key: item for key, item in base.items() if _top(key) in fields}
    verdicts = {}
    for index in itertools.product(*(range(len(axes[number])) for number in numbers)):
        choice = dict(constant)
        for number, i in zip(numbers, index, strict=True):
            choice |= axes[number][i]
        verdicts[index] = judge(choice, fields, exclude)
    return Group(numbers, verdicts)


def _top(key: str) -> str:
    return key.partition(".")[0]


def _nested(choice: Choice) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, (value, _) in choice.items():
        section, _, name = key.rpartition(".")
        if not section:
            nested[name] = value
        elif isinstance(inside := nested.setdefault(section, {}), dict):
            nested[section] = {**inside, name: value}
    return nested


def _place_of(key: str, choice: Choice) -> Place:
    """The place of the value that a problem with `key` is about; () if the file does not set it."""
    for name, (_, place) in choice.items():
        if f"{key}.".startswith(f"{name}."):
            return (*place, *key.removeprefix(name).split(".")[1:])
    return next((place for name, (_, place) in choice.items() if _top(name) == _top(key)), ())
