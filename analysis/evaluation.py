"""One evaluation of a run as it is on disk: its record, and what tables call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.kinds import Config, Kind, kind_of
from analysis.names import NORMS
from core.config import Strength
from core.config.strength import Norm


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: its record on disk, or None and the reason why there is none."""

    id: str
    record: Mapping[str, Any] | None
    state: str = "done"
    reason: str = ""
    asked: Config = field(default_factory=dict)
    """Its config in the grid; {} if only its id is known."""

    @property
    def config(self) -> Config:
        """The config it was made with, or else the one in the grid."""
        config: Config = self.record["config"] if self.record else self.asked
        return config

    @property
    def kind(self) -> Kind:
        return kind_of(self.config)

    @property
    def norm(self) -> Norm | Literal[""]:
        """The norm of its attack; '' for a kind without attack, or if only its id is known."""
        norm: Norm | Literal[""] = self.config.get("norm", "") if self.kind.at_strengths else ""
        return norm

    def target(self, trained: Strength) -> Strength:
        """The strength whose accuracy counts as adversarial accuracy of a run trained against
        `trained`: the same, or the evaluation's largest if it attacks in another norm."""
        if not self.norm or self.norm == trained.norm:
            return trained
        return Strength.parse(self.config["epsilons"][-1], self.norm)

    def note(self, trained: Strength) -> str:
        """What tables add to the attack's name, such as ' (l2 at 0.5)'; '' in the usual case: l-inf
        at eps_g, with strengths weighted equally in expected accuracy."""
        target = self.target(trained)
        usual = target.norm == trained.norm == "linf" and self.prior is None
        if usual or not self.record or not self.kind.at_strengths:
            return ""
        at = f" at {target}" if target.norm != trained.norm else ""
        weighted = "" if self.prior is None else ", expected by its own prior"
        return f" ({NORMS[target.norm]}{at}{weighted})"

    @property
    def prior(self) -> Sequence[float] | None:
        """Weights of the strengths in expected accuracy; None if they are equal."""
        weights: Sequence[float] | None = self.config.get("prior")
        return weights

    @property
    def is_exact(self) -> bool:
        """Whether its expected accuracy is an exact integral over distances."""
        return self.kind.by_distance and self.prior is None

    @property
    def attack(self) -> str:
        """'APGD-10', 'Corruptions-3'; '' if nothing was measured."""
        return self.kind.label(self.config) if self.record else ""


def images_of(record: Mapping[str, Any]) -> set[int]:
    """The numbers of images that an evaluation's rows are based on: one number if it is
    complete."""
    counts = [row["n"] for row in record["rows"]]
    if counts and record["config"].get("per_image", "") == "one" and "type" in record["rows"][0]:
        counts = [sum(counts)]
    return {*counts, record["n"]}
