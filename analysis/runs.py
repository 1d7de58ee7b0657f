"""Run folders as objects: what a grid asks of each run, and what lies on disk of it.

Files are read when they are asked for, once; make new objects to see new files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

from analysis.kinds import Config, Kind, kind_of
from analysis.names import NORMS, dataset_name, model_name
from core.config import ConfigError, RunConfig, Strength
from core.config.strength import Norm
from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.errors import DamagedError
from core.store import damage, shapes
from core.store.classes import classes_of
from core.store.flags import read_flags
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, read_jsonl, salvage, warn_once
from core.store.records import FEWEST, batchnorm_images, delay, threshold

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run as found on disk, or the reason why it is not there."""

    id: str
    record: Mapping[str, Any] | None
    state: str = "done"
    reason: str = ""
    asked: Config = field(default_factory=dict)
    """What the grid says of it; {} if only its id is known."""

    @property
    def config(self) -> Config:
        """As it was made, or else as the grid asks for it."""
        config: Config = self.record["config"] if self.record else self.asked
        return config

    @property
    def kind(self) -> Kind:
        return kind_of(self.config)

    @property
    def norm(self) -> Norm | Literal[""]:
        """Of its attack; '' of a kind without one, and if nothing but its id is known."""
        norm: Norm | Literal[""] = self.config.get("norm", "") if self.kind.at_strengths else ""
        return norm

    def target(self, trained: Strength) -> Strength:
        """The strength at which the accuracy of a run trained against `trained` is its adversarial
        one: that one, or the evaluation's largest if it attacks in another norm."""
        if not self.norm or self.norm == trained.norm:
            return trained
        return Strength.parse(self.config["epsilons"][-1], self.norm)

    def note(self, trained: Strength) -> str:
        """What stands behind the name of an attack that is not the usual one, l-inf at eps_g with
        all strengths alike in expected accuracy."""
        target = self.target(trained)
        usual = target.norm == trained.norm == "linf" and self.prior is None
        if usual or not self.record or not self.kind.at_strengths:
            return ""
        at = f" at {target}" if target.norm != trained.norm else ""
        weighted = "" if self.prior is None else ", expected by a prior of its own"
        return f" ({NORMS[target.norm]}{at}{weighted})"

    @property
    def prior(self) -> Sequence[float] | None:
        """Weights of the strengths in expected accuracy; None if they are alike."""
        weights: Sequence[float] | None = self.config.get("prior")
        return weights

    @property
    def attack(self) -> str:
        """'APGD-10', 'Corruptions-3'; '' if nothing was measured."""
        return self.kind.label(self.config) if self.record else ""


@dataclass(frozen=True)
class Run:
    """One run of the grid and its folder. asked: id -> config ({} if not known) of the evaluations
    that the grid wants."""

    dir: RunDir
    config: Mapping[str, Any]
    setting: str
    variant: str
    asked: Mapping[str, Config]
    tuned: Mapping[str, Any] | None = None
    """Of a tuned run the winner it has taken: search, params, value, trials, least, ..."""
    known: Known | None = None
    """What datasets and checkpoints hold now, shared by the runs of a store."""

    @cached_property
    def epsilon_g(self) -> Strength:
        """What it is trained against."""
        return Strength.parse(self.config["epsilon_g"], self.config["norm"])

    @property
    def hinges(self) -> str:
        """'T1=12;T2=37' of a two-hinge schedule (fix is T1=0;T2=0), '' of any other."""
        T1, T2 = self.pair
        return "" if T1 is None else f"T1={T1};T2={T2}"

    @property
    def pair(self) -> tuple[int, int] | tuple[None, None]:
        """(T1, T2) of a two-hinge schedule in epochs; None and None of any other."""
        schedule = self.config["schedule"]
        if schedule["kind"] != "two_hinge":
            return None, None
        return schedule["T1"], schedule["T2"]

    @cached_property
    def about(self) -> Row:
        """The columns that name a run in every frame."""
        return {
            "model": model_name(self.config["backbone"]),
            "dataset": dataset_name(self.config["dataset"]),
            "epsilon_g": self.epsilon_g.in_255ths,
            "norm": self.epsilon_g.norm,
            "setting": self.setting,
            "seed": self.config["seed"],
            "variant": self.variant,
            "run_id": self.dir.id,
            "T1": self.pair[0],
            "T2": self.pair[1],
        }

    @cached_property
    def damage(self) -> list[DamagedError]:
        """Its files that cannot be read: then none of its numbers is taken."""
        return damage.find(self.dir, self.asked)

    @cached_property
    def changed(self) -> str | None:
        """Which of its images or weights have changed since it was made; None if none has."""
        if self.damage or self.known is None:
            return None
        return self.known.changed(self.sources, recorded(self.dir))

    @property
    def sources(self) -> Sources:
        """What names its images and weights."""
        return Sources(*(self.config[name] for name in Sources._fields))

    @cached_property
    def result(self) -> Mapping[str, Any] | None:
        """result.json; None before the run is done, and of a damaged or stale one."""
        return None if self.damage or self.changed else read_json(self.dir.result)

    @property
    def state(self) -> str:
        """done, damaged, stale, or how the last attempt stands: failed, cancelled, interrupted,
        lost, running; missing if there was none."""
        return self._standing[0]

    @property
    def reason(self) -> str:
        """Why the run is not done, '' where it is."""
        return self._standing[1]

    @cached_property
    def _standing(self) -> tuple[str, str]:
        if self.damage:
            return "damaged", damage.described(self.damage, self.dir)
        if self.changed:
            return "stale", self.changed
        if self.result is not None:
            return "done", ""
        if not self.attempts:
            return "missing", "not started"
        last = self.attempts[-1]
        outcome = last.get("outcome") or "running"
        if outcome == "done":
            return "missing", "ended, but result.json is not there"
        return outcome, last.get("reason") or f"attempt {last.get('attempt', len(self.attempts))}"

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The asked evaluations, then others that the result names."""
        others = self.result["evals"] if self.result is not None else ()
        return tuple(self._evaluation(name) for name in dict.fromkeys([*self.asked, *others]))

    def _evaluation(self, eval_id: str) -> Evaluation:
        asked = self.asked.get(eval_id, {})
        if self.state != "done":
            return Evaluation(eval_id, None, self.state, self.reason, asked)
        record = read_json(self.dir.eval_json(eval_id))
        if record is None:
            return Evaluation(eval_id, None, "missing", f"evaluation {eval_id} not done", asked)
        whole = record["split_images"]
        counts = _images(record)
        if record["config"].get("images") is None and counts != {whole}:
            return Evaluation(eval_id, record, "partial", f"{min(counts)} of {whole} images")
        return Evaluation(eval_id, record)

    def is_constant(self, evaluation: Evaluation) -> bool:
        """Whether the run gave all images of an evaluation the same label, as far as its flags
        tell: the right ones are all images of one class, and no attack has changed that. Without
        flags, that no attack changed the accuracy of guessing tells."""
        record = evaluation.record or {}
        if not evaluation.kind.at_strengths:
            return False
        counts = {row["correct"] for row in record.get("rows", ())}
        if len(record.get("rows", ())) < 2 or len(counts) != 1 or not (right := min(counts)):
            return False
        flags = read_flags(self.dir.eval_flags(evaluation.id))
        if flags is None or not {"label", "critical"} <= {*flags}:
            return self.classes is not None and abs(right - record["n"] / self.classes) < 1
        mine = flags["label"][flags["critical"] > 0]
        return len({*mine}) == 1 and int((flags["label"] == mine[0]).sum()) == right

    @cached_property
    def env(self) -> Mapping[str, Any]:
        """commit, versions, host, device; {} where the run never started."""
        return {} if self.damage else read_json(self.dir.env) or {}

    @cached_property
    def attempts(self) -> list[Row]:
        return [row for row in salvage(self.dir.attempts, shapes.Attempt) if row]

    @cached_property
    def epochs(self) -> list[Row]:
        """Rows of metrics.jsonl so far, strengths as they are written now."""
        if self.damage or self.changed:
            return []
        rows, norm = read_jsonl(self.dir.metrics, shapes.Metrics), self.config["norm"]
        if norm == "linf":
            return rows
        for row in rows:
            if "val_epsilon" in row:
                row["val_epsilon"] = str(Strength.parse(row["val_epsilon"], norm))
        return rows

    @cached_property
    def classes(self) -> int | None:
        """Of the run's task; None if neither its records nor its dataset's name tell."""
        return classes_of(self.dir, self.config["dataset"], self.epochs)

    @property
    def threshold(self) -> float:
        """Validation clean accuracy in [0, 1] above which the run has adapted."""
        return threshold(self.classes)

    @cached_property
    def batchnorm_images(self) -> list[int]:
        """Distinct images per BatchNorm statistic in its training so far, largest first; [] if the
        network has none, or the run is of a version that did not record it."""
        if self.result is not None:
            return list(self.result.get("batchnorm_images") or ())
        return batchnorm_images(self.epochs)

    @property
    def delay(self) -> int | None:
        """Adaptation delay in epochs (the length of the training where never), by the threshold for
        the classes of its task; None before the training is through."""
        return self._delay(self.classes)

    @property
    def delay_of_paper(self) -> int | None:
        """The same by the paper's 5 %, whatever the classes: what its published delays are."""
        return self._delay(FEWEST)

    def _delay(self, classes: int | None) -> int | None:
        total = int(self.config["epochs"])
        if len(self.epochs) >= total:
            return delay(self.epochs, total, classes)
        recorded: int | None = (self.result or {}).get("delay")
        return recorded


def _images(record: Mapping[str, Any]) -> set[int]:
    """The counts of images behind the numbers of an evaluation: one, where it is whole."""
    counts = [row["n"] for row in record["rows"]]
    if counts and record["config"].get("per_image", "") == "one" and "type" in record["rows"][0]:
        counts = [sum(counts)]
    return {*counts, record["n"]}


def runs_of(store: Store, manifest: Sequence[Mapping[str, Any]] | None) -> list[Run]:
    """The runs of a manifest, or every run of the store. Raises ConfigError for none at all."""
    rows = [_respelled(row) for row in (manifest if manifest is not None else _every_run(store))]
    if not rows:
        raise ConfigError(f"{store.root}: no runs here; `sweep launch` a grid first")
    variants = _variants(rows)
    known = Known(store)
    # A run whose evaluations nothing tells is asked for those of the others.
    usual: Iterable[str] = next((row["evals"] for row in rows if row["evals"]), ())
    configs = _evaluations(store, rows)
    return [
        Run(
            store.run(row["id"]),
            row["config"],
            row["setting"],
            variants[row["id"]],
            {name: configs[name] for name in row["evals"] or usual},
            row.get("tuned"),
            known,
        )
        for row in rows
    ]


def _respelled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a manifest with the strengths of its run as they are written now: older versions
    wrote 0.2 of l2 as '51/255', and one value spelled in two ways would be two."""
    config = row["config"]
    if config["norm"] == "linf":
        return row
    strength = str(Strength.parse(config["epsilon_g"], config["norm"]))
    validation = {**config["validation"]}
    if validation.get("epsilon") is not None:
        validation["epsilon"] = str(Strength.parse(validation["epsilon"], config["norm"]))
    return {**row, "config": {**config, "epsilon_g": strength, "validation": validation}}


def _every_run(store: Store) -> list[Row]:
    """What the store's sweeps ask for, then the runs that belong to none of them."""
    found: dict[str, Row] = {}
    for path in sorted(store.root.glob("sweeps/*/manifest.jsonl")):
        for row in filter(None, salvage(path, shapes.Manifest)):
            known = found.setdefault(row["id"], row)
            known["evals"] = {**_configs(known["evals"]), **_configs(row["evals"])}
    for folder in sorted(store.runs.iterdir()) if store.runs.is_dir() else []:
        if folder.name not in found and RunDir(folder).config.is_file():
            try:
                found[folder.name] = _loose_run(RunDir(folder))
            except DamagedError as error:
                warn_once(f"{error}; this run is left out")
    return list(found.values())


def _loose_run(run: RunDir) -> Row:
    config = run.read_config()
    try:
        parsed = RunConfig.parse(config, where=str(run.config))
    except ConfigError as error:
        raise DamagedError(run.config, error.lines[0]) from None
    if parsed.id != run.id:
        raise DamagedError(run.config, f"the config of {parsed.id}")
    evals = sorted(path.stem for path in run.path.glob("evals/*.json"))
    return {"id": run.id, "setting": parsed.setting, "config": config, "evals": evals}


def _evaluations(store: Store, rows: Iterable[Mapping[str, Any]]) -> dict[str, Config]:
    """Id -> config of all evaluations that rows of a manifest ask for; {} if none of the rows tells
    it, nor a record of the evaluation."""
    found: dict[str, Config] = {}
    for row in rows:
        for name, config in _configs(row["evals"]).items():
            if not found.get(name):
                found[name] = config or _recorded(store.run(row["id"]), name)
    return found


def _configs(evals: Mapping[str, Config] | Sequence[str]) -> Mapping[str, Config]:
    """Id -> config; {} for each of the bare ids that older manifests have."""
    return evals if isinstance(evals, Mapping) else {name: {} for name in evals}


def _recorded(run: RunDir, eval_id: str) -> Config:
    """The config in a record, {} if there is none that can be read."""
    record: Row | None = None
    with suppress(DamagedError):
        record = read_json(run.eval_json(eval_id), shapes.Evaluation)
    return record["config"] if record else {}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted names and values of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _variants(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Run id -> what sets it apart from other runs of its cell ('optim.lr=0.001'), mostly ''.

    Only seeds may be averaged; runs of one cell that differ in anything else are other columns.
    """
    cells = defaultdict(list)
    for row in rows:
        config = row["config"]
        # By the names that tables show: two folders may be called the same.
        names = model_name(config["backbone"]), dataset_name(config["dataset"])
        number = Strength.parse(config["epsilon_g"], config["norm"]).number
        cells[*names, number, row["setting"]].append(row)
    fields: dict[str, None] = {}
    for twins in cells.values():
        if len(twins) > 1:
            fields |= dict.fromkeys(_differing([row["config"] for row in twins]))
    found = {}
    for row in rows:
        config = _whole(row["config"]) if fields else {}
        found[row["id"]] = ", ".join(f"{n}={config[n]}" for n in fields if n in config)
    return found


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted names of the fields, other than the seed, in which the configs are not all equal."""
    plain = [{key: part for key, part in one.items() if key != "seed"} for one in configs]
    if all(one == plain[0] for one in plain):
        return []
    found = [_whole(one) for one in plain]
    names = dict.fromkeys(name for one in found for name in one)
    return [name for name in names if _differ(name, [one.get(name) for one in found])]


def _differ(name: str, values: Sequence[Any]) -> bool:
    """Whether a field has several values. A digest of own code that lacks says nothing: then the
    kind is another one."""
    if name.startswith("code."):
        values = [value for value in values if value is not None]
    return any(value != values[0] for value in values)


def _whole(config: Mapping[str, Any]) -> Row:
    """A config flat, with the defaults of fields that are younger than what wrote it."""
    return _defaults() | dict(flat(config))


@cache
def _defaults() -> Row:
    return dict(flat(RunConfig(backbone="vit", dataset="fake").to_dict()))
