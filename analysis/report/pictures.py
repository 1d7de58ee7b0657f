"""Chooses images for the page of pictures: the first ones, and those on which two runs differ, by
the per-image flags of an evaluation that all the runs share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.names import model_name
from analysis.report.confusion import ATTACKED, MEASURED, Confusion, confusions
from core.config import ConfigError, RunConfig, Strength, nearest
from core.config.evaluation import USUAL
from core.store import shapes
from core.store.flags import read_flags
from core.store.folders import RunDir
from core.store.json_files import read_json

Array = NDArray[Any]


class Judged(NamedTuple):
    """A run. critical: for each image the index of the smallest strength that breaks it in the
    evaluation, or the number of strengths if none does; shape [n]."""

    run: RunDir
    config: RunConfig
    critical: Array
    name: str


class Tally(NamedTuple):
    """Numbers of images at one strength: kept by both runs, by the first alone, by the second
    alone, by neither."""

    strength: Strength
    both: int
    first: int
    second: int
    neither: int


class Classed(NamedTuple):
    """What the images of a run are taken for, clean and at each strength shown. attacked: whether
    the evaluation attacked at each strength, instead of measuring distances."""

    evaluation: str
    images: int
    attacked: bool
    confusions: list[Confusion]


@dataclass(frozen=True)
class Subject:
    """Runs that were evaluated on the same images. evaluation, config: id and config of the
    evaluation they share; index, label: of its images, [n]; strengths: those it measured, ascending
    from 0; shown: those with pictures; apart: the one at which kept and lost images are told apart.
    """

    judged: Sequence[Judged]
    evaluation: str
    config: Mapping[str, Any]
    index: Array
    label: Array
    strengths: Sequence[Strength]
    shown: Sequence[Strength]
    apart: Strength
    most: int
    """Maximum number of images in each part of the page."""

    @classmethod
    def of(
        cls,
        runs: Sequence[RunDir],
        *,
        evaluation: str | None = None,
        strengths: Sequence[str] = (),
        most: int = 6,
    ) -> Subject:
        """evaluation: its id or the beginning of it, by default the first that all the runs have.
        strengths: those to show, as text, by default around the training strength. Raises
        ConfigError if a run is not done, if the runs differ in dataset or images or share no
        evaluation, or if the evaluation lacks a strength; DamagedError."""
        configs = [_config_of(run) for run in runs]
        for run, config in zip(runs[1:], configs[1:], strict=True):
            if config.dataset != configs[0].dataset:
                raise ConfigError(
                    f"expected runs of one dataset, got {configs[0].dataset} ({runs[0].id}) "
                    f"and {config.dataset} ({run.id})"
                )
        name = _shared(runs, evaluation)
        record = _record(runs[0], name)
        flags = [_flags(run, name) for run in runs]
        orders = [np.argsort(one["index"]) for one in flags]
        labels = [one["label"][order] for one, order in zip(flags, orders, strict=True)]
        for run, label in zip(runs, labels, strict=True):
            if not np.array_equal(label, labels[0]):
                raise ConfigError(_others(runs[0], run))
        critical = [one["critical"][order] for one, order in zip(flags, orders, strict=True)]
        judged = [
            Judged(*one) for one in zip(runs, configs, critical, _names(runs, configs), strict=True)
        ]
        asked = record["config"]
        known = [Strength.parse(text, asked["norm"]) for text in asked["epsilons"]]
        shown = _chosen(known, strengths, name) if strengths else _usual(known, configs)
        apart = shown[0] if strengths else _trained(known, configs)
        index = flags[0]["index"][orders[0]]
        return cls(judged, name, asked, index, labels[0], known, sorted({*shown}), apart, most)

    @property
    def level(self) -> int:
        """Index of the strength `apart`."""
        return self.strengths.index(self.apart)

    @property
    def first(self) -> list[int]:
        """Row numbers (in `index` and `label`) of the first images."""
        return [*range(min(self.most, len(self.index)))]

    def kept(self, mine: Judged, other: Judged) -> list[int]:
        """Row numbers of the first images that run `mine` keeps and run `other` loses."""
        alone = (mine.critical > self.level) & (other.critical <= self.level)
        return [int(row) for row in np.flatnonzero(alone)[: self.most]]

    @property
    def rows(self) -> list[int]:
        """Row numbers of all images on the page, ascending."""
        found = {*self.first}
        for other in self.judged[1:]:
            found |= {*self.kept(self.judged[0], other), *self.kept(other, self.judged[0])}
        return sorted(found)

    @property
    def places(self) -> list[int]:
        """Indices of these images in their split."""
        return [int(self.index[row]) for row in self.rows]

    @property
    def steps(self) -> int:
        """Steps of the attack that makes the pictures: those of the evaluation."""
        return int(self.config.get("steps", 10))

    def classed(self, one: Judged) -> Classed | None:
        """What the images of a run are taken for, by the shared evaluation if that records classes,
        else by one of distances in the norm of the strengths; None if there is none."""
        for name in (self.evaluation, *sorted(one.run.evals_on_disk())):
            flags, norm = _flags(one.run, name), _record(one.run, name)["config"]["norm"]
            attacked = {*flags} >= ATTACKED and name == self.evaluation
            if attacked or ({*flags} >= MEASURED and norm == self.apart.norm):
                found = confusions(flags, self.strengths, self.shown)
                return Classed(name, len(flags["label"]), attacked, found)
        return None

    def tallies(self, other: Judged) -> list[Tally]:
        """Compares the first run with another one, at every strength."""
        found = []
        for level, strength in enumerate(self.strengths):
            a, b = self.judged[0].critical > level, other.critical > level
            counts = (a & b, a & ~b, ~a & b, ~a & ~b)
            found.append(Tally(strength, *(int(part.sum()) for part in counts)))
        return found

    def check_same(self, other: RunDir, images: Array, its: Array) -> None:
        """Raises ConfigError unless two runs have the same pixels."""
        if images.shape != its.shape or not np.array_equal(images, its):
            raise ConfigError(_others(self.judged[0].run, other))


def _config_of(run: RunDir) -> RunConfig:
    if read_json(run.result, shapes.Result) is None:
        raise ConfigError(f"{run.id}: not done; see: sweep logs {run.id}")
    return RunConfig.parse(run.read_config(), where=str(run.config))


def _names(runs: Sequence[RunDir], configs: Sequence[RunConfig]) -> list[str]:
    """'ViT, sched, 4/255' for each run, with the end of its id if the name is not unique."""
    names = [
        ", ".join(
            [model_name(config.backbone), config.setting]
            + [str(config.epsilon_g)] * bool(config.epsilon_g)
        )
        for config in configs
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({run.id[-8:]})"
        for name, run in zip(names, runs, strict=True)
    ]


def _shared(runs: Sequence[RunDir], asked: str | None) -> str:
    """Id of an evaluation that attacked every run at several strengths and has flags. asked: its id
    or the beginning of it; by default the first in the first run's result, APGD's before others.
    Raises ConfigError."""
    there = [{name for name in run.evals_on_disk() if _is_attack(run, name)} for run in runs]
    shared = sorted(set.intersection(*there))
    if asked is None and shared:
        made = (read_json(runs[0].result, shapes.Result) or {}).get("evals", ())
        order = [name for name in made if name in shared] or shared
        return min(order, key=lambda name: _record(runs[0], name)["config"].get("attack") != USUAL)
    matches = [name for name in shared if name.startswith(asked or "")]
    if len(matches) == 1:
        return matches[0]
    if not shared:
        have = "; ".join(
            f"{run.id}: {', '.join(sorted(names)) or 'none'}"
            for run, names in zip(runs, there, strict=True)
        )
        raise ConfigError(f"expected an attack that all the runs were evaluated by, got {have}")
    said = f"matches {len(matches)} evaluations" if matches else "no such evaluation"
    raise ConfigError(f"--evaluation {asked}: {said}{nearest(str(asked), shared)}")


def _is_attack(run: RunDir, name: str) -> bool:
    return len(_record(run, name)["config"].get("epsilons", ())) > 1 and "critical" in _flags(
        run, name
    )


def _record(run: RunDir, name: str) -> Mapping[str, Any]:
    record = read_json(run.eval_json(name), shapes.Evaluation)
    if record is None:
        raise ConfigError(f"{run.id}: the record of evaluation {name} is missing")
    return record


def _flags(run: RunDir, name: str) -> dict[str, Array]:
    flags = read_flags(run.eval_flags(name))
    if flags is None:
        raise ConfigError(f"{run.id}: the flags of evaluation {name} are missing")
    return flags


def _others(first: RunDir, second: RunDir) -> str:
    return (
        f"{second.id}: was evaluated on other images than {first.id}; expected runs of the same "
        "dataset, image size and, if images are drawn, seed"
    )


def _chosen(known: Sequence[Strength], asked: Sequence[str], evaluation: str) -> list[Strength]:
    found = []
    for text in asked:
        try:
            strength = Strength.parse(text, known[0].norm)
        except ValueError as error:
            raise ConfigError(f"--strength: {error}") from None
        if strength not in known or not strength:
            names = ", ".join(map(str, known[1:]))
            raise ConfigError(f"--strength {text}: expected one of {evaluation}: {names}")
        found.append(strength)
    return found


def _trained(known: Sequence[Strength], configs: Sequence[RunConfig]) -> Strength:
    """The largest strength that a run was trained against and the evaluation measured, else the
    evaluation's middle one."""
    trained = [config.epsilon_g for config in configs if config.epsilon_g in known[1:]]
    return max(trained, default=known[len(known) // 2])


def _usual(known: Sequence[Strength], configs: Sequence[RunConfig]) -> list[Strength]:
    """Those that the evaluation measured nearest to half of the strength `_trained`, that strength,
    and twice that."""
    middle = _trained(known, configs).number
    wanted = (middle / 2, middle, middle * 2)
    return sorted({min(known[1:], key=lambda one: abs(one.number - near)) for near in wanted})
