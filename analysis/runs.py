"""Run folders as objects: what a grid asks of each run, and what is on disk.

Files are read once, on first use; make new objects to see later changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis.evaluation import Evaluation, images_of
from analysis.kinds import Config
from analysis.names import dataset_name, model_name
from core.config import Strength
from core.config.strength import in_pixels
from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.errors import DamagedError
from core.store import damage, shapes
from core.store.classes import classes_of
from core.store.files import read
from core.store.flags import read_flags
from core.store.folders import ATTEMPTS, ENV, METRICS, RESULT, RunDir, eval_names
from core.store.json_files import parse_json, parse_jsonl, salvage
from core.store.records import FEWEST, batchnorm_images, delay, threshold

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run of the grid and its folder. asked: id -> config ({} if unknown) of the evaluations
    that the grid asks for."""

    dir: RunDir
    config: Mapping[str, Any]
    setting: str
    variant: str
    asked: Mapping[str, Config]
    tuned: Mapping[str, Any] | None = None
    """For a tuned run, the winner it uses: search, params, value, trials, least, ..."""
    known: Known | None = None
    """Present digests of datasets and checkpoints, shared by the runs of a store."""
    _seen: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Name in the folder -> what a file holds that has been read and not used yet."""

    def forget(self) -> None:
        """Drop what was read, to save memory (1 GB for 10,000 runs of 50 epochs). It is read again
        when needed."""
        self._seen.clear()
        for name in ("epochs", "evaluations", "env"):
            self.__dict__.pop(name, None)

    def _read(self, parse: Callable[[bytes, str], Any], name: str) -> Any:
        """The content of a file, whose shape `damage` has checked; None if it does not exist."""
        path = f"{self.dir.path}/{name}"
        found = self._seen.pop(name) if name in self._seen else read(path)
        return parse(found, path) if isinstance(found, bytes) else found

    @cached_property
    def epsilon_g(self) -> Strength:
        """The strength it is trained against."""
        return Strength.parse(self.config["epsilon_g"], self.config["norm"])

    @property
    def hinges(self) -> str:
        """'T1=12;T2=37' for a two-hinge schedule (fix is T1=0;T2=0), '' for any other."""
        T1, T2 = self.pair
        return "" if T1 is None else f"T1={T1};T2={T2}"

    @property
    def pair(self) -> tuple[int, int] | tuple[None, None]:
        """(T1, T2) of a two-hinge schedule, in epochs; (None, None) for any other."""
        schedule = self.config["schedule"]
        if schedule["kind"] != "two_hinge":
            return None, None
        return schedule["T1"], schedule["T2"]

    @cached_property
    def about(self) -> Row:
        """The columns that identify a run in every frame."""
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
        """Its files that cannot be read; if there are any, none of its numbers is used."""
        return damage.find(self.dir, self.asked, self._seen)

    @cached_property
    def changed(self) -> str | None:
        """Which of its images or weights have changed since it ran, as a sentence, or None."""
        if self.damage or self.known is None:
            return None
        return self.known.changed(self.sources, recorded(self.dir, self._seen))

    @property
    def sources(self) -> Sources:
        """The config fields that determine its images and weights."""
        return Sources(*(self.config[name] for name in Sources._fields))

    @cached_property
    def result(self) -> Mapping[str, Any] | None:
        """result.json; None if the run is not done, damaged or stale."""
        if self.damage or self.changed:
            return None
        result: Row | None = self._read(parse_json, RESULT)
        if result:
            result.pop("crc32", None)  # 10 MB for 10,000 runs, which nothing else needs
        return result

    @property
    def state(self) -> str:
        """done, damaged, stale, or the outcome of the last attempt: failed, cancelled, interrupted,
        lost, running; missing if there was no attempt."""
        return self._standing[0]

    @property
    def reason(self) -> str:
        """Why the run is not done; '' if it is."""
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
            return "missing", "ended, but there is no result.json"
        return outcome, last.get("reason") or f"attempt {last.get('attempt', len(self.attempts))}"

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations that the grid asks for, then others in the result."""
        others = self.result["evals"] if self.result is not None else ()
        return tuple(self._evaluation(name) for name in dict.fromkeys([*self.asked, *others]))

    def _evaluation(self, eval_id: str) -> Evaluation:
        asked = self.asked.get(eval_id, {})
        if self.state != "done":
            return Evaluation(eval_id, None, self.state, self.reason, asked)
        record = self._read(parse_json, eval_names(eval_id)[0])
        if record is None:
            return Evaluation(eval_id, None, "missing", f"evaluation {eval_id} not done", asked)
        whole = record["split_images"]
        counts = images_of(record)
        if record["config"].get("images") is None and counts != {whole}:
            return Evaluation(eval_id, record, "partial", f"{min(counts)} of {whole} images")
        return Evaluation(eval_id, record)

    def is_constant(self, evaluation: Evaluation) -> bool:
        """Whether the network seems to give every image the same label: the right images are
        exactly those of one class, at every strength. Without per-image flags: the accuracy is that
        of guessing, at every strength."""
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
        """commit, versions, host, device; {} if the run never started."""
        if self.damage:
            return {}
        env: Row | None = self._read(parse_json, ENV)
        return env or {}

    @cached_property
    def attempts(self) -> list[Row]:
        if self.damage:
            return [row for row in salvage(f"{self.dir.path}/{ATTEMPTS}", shapes.Attempt) if row]
        return self._read(parse_jsonl, ATTEMPTS) or []

    @cached_property
    def epochs(self) -> list[Row]:
        """Rows of metrics.jsonl so far, with strengths in the present spelling."""
        if self.damage or self.changed:
            return []
        rows: list[Row] = self._read(parse_jsonl, METRICS) or []
        norm = self.config["norm"]
        if in_pixels(norm):
            return rows
        for row in rows:
            if "val_epsilon" in row:
                row["val_epsilon"] = str(Strength.parse(row["val_epsilon"], norm))
        return rows

    @cached_property
    def classes(self) -> int | None:
        """Number of classes of the run's task; None if unknown."""
        return classes_of(self.dir, self.config["dataset"], self.epochs)

    @property
    def threshold(self) -> float:
        """Validation clean accuracy in [0, 1] above which the run has adapted."""
        return threshold(self.classes)

    @cached_property
    def batchnorm_images(self) -> list[int]:
        """Distinct numbers of images per BatchNorm statistic in its training so far, largest first;
        [] without BatchNorm, or if an older version did not record them."""
        if self.result is not None:
            return list(self.result.get("batchnorm_images") or ())
        return batchnorm_images(self.epochs)

    @property
    def delay(self) -> int | None:
        """Adaptation delay in epochs (all epochs if it never adapted), by the threshold for its
        number of classes; None before the end of the training, or if it does not train."""
        return self._delay(self.classes)

    @property
    def delay_of_paper(self) -> int | None:
        """The delay by the paper's threshold of 5 % for any number of classes."""
        return self._delay(FEWEST)

    def _delay(self, classes: int | None) -> int | None:
        total = int(self.config["epochs"])
        if not total:
            return None
        if len(self.epochs) >= total:
            return delay(self.epochs, total, classes)
        recorded: int | None = (self.result or {}).get("delay")
        return recorded
