"""Profile: where and how runs are executed, read from YAML and checked before submission.

It contains nothing that affects results. `executor_options()` and `slurm_parameters()` convert it
to submitit's keywords.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self, assert_never

from pydantic import Field, StrictBool, ValidationError, field_validator, model_validator

from core.config.document import Document, Place, read_text
from core.errors import ConfigError
from core.options import Compile, Mode
from slurm.executors import EXECUTORS, Home, home_of, plugins
from slurm.faults import did_you_mean, note
from slurm.parameters import (
    Amount,
    Count,
    CountOrNone,
    Integer,
    Line,
    Model,
    Override,
    Slurm,
    Text,
    Variable,
    completed,
)

_SIGNAL_DELAY_S = 90  # submitit's own default
_REFERENCE = re.compile(r"(\$[A-Za-z_]\w*|\$\{[A-Za-z_]\w*\})", re.ASCII)
_ONLY: Mapping[str, tuple[str, tuple[Home, ...]]] = {
    **dict.fromkeys(
        (
            *("slurm", "overrides", "staging", "runs_per_job", "packing", "max_requeues"),
            *("heartbeat_s", "stale_s"),
        ),
        ("executor 'slurm'", ("slurm",)),
    ),
    "workers": ("executor 'local'", ("local",)),
    "parameters": ("Ray and plug-ins", ("ray", "plug-in")),
}
"""Key -> the executors that it applies to: their name in messages, and their homes."""
_PACKAGED = files("slurm") / "profiles"


class Profile(Model):
    """Where and how runs are executed. Fields in seconds end in `_s`, in minutes in `_min`, in GB
    in `_gb`."""

    name: Text
    about: Text = "no description"
    executor: Text  # one of EXECUTORS, or a plug-in of submitit
    parameters: dict[Variable, Any] = Field(default_factory=dict)  # of Ray or a plug-in
    workers: Count = Field(default_factory=lambda: len(os.sched_getaffinity(0)))  # local only
    slurm: Slurm = Slurm()
    env: dict[Variable, Integer | Line] = Field(default_factory=dict)
    tracking: Mode = "auto"
    staging: StrictBool = False  # copy the data to $SLURM_TMPDIR first
    compile: Compile = "none"  # torch.compile in training
    gpus_per_run: CountOrNone = 1
    gpu_memory_gb: Amount | None = None  # of one GPU; `sweep dry-run` compares its estimate to it
    runs_per_job: Count = 1
    packing: Literal["serial", "parallel"] = "serial"
    max_requeues: CountOrNone = 5
    heartbeat_s: Amount = 30.0
    stale_s: Amount = 300.0  # a run without a heartbeat for this long counts as dead
    overrides: dict[Text, Override] = Field(default_factory=dict)

    @field_validator("executor")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in EXECUTORS:
            return name
        found, broken = plugins()
        if name in found:
            return name
        valid = [*EXECUTORS, *found]
        near = did_you_mean(name, valid)
        raise ValueError(f"expected one of {', '.join(valid)}, got {name!r}{near}{broken}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = [*self._faults()]
        for backbone in self.overrides if not faults else ():
            merged = self._merged(backbone)
            faults += [f"overrides.{backbone}: {fault}" for fault in merged._faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        if self.stale_s < 3 * self.heartbeat_s:
            yield "stale_s: must be at least 3 x heartbeat_s, or runs on a slow disk count as dead"
        home = home_of(self.executor)
        for key in sorted(self.model_fields_set & _ONLY.keys()):
            whose, homes = _ONLY[key]
            if home not in homes:
                yield f"{key}: only for {whose}, this one is {self.executor!r}"
        match home:
            case "slurm":
                yield from self._slurm_faults()
                yield from self._gpu_faults()
            case "debug" | "ray" | "plug-in":
                if self.ranks > 1:
                    one = f"executor {self.executor!r} has one process per run"
                    yield f"gpus_per_run: {one}, got {self.gpus_per_run}"
                if home == "plug-in" and "timeout_min" not in self.parameters:
                    yield "parameters.timeout_min: required (submitit's default is 5 minutes)"
            case "local":
                pass
            case _:
                assert_never(home)
        if self.ranks > 1 and self.runs_per_job > 1:
            yield "runs_per_job: must be 1 if gpus_per_run is above 1"

    def _slurm_faults(self) -> Iterator[str]:
        if self.slurm.timeout_min is None:
            yield "slurm.timeout_min: required (submitit's default is 5 minutes)"
        elif 60 * self.slurm.timeout_min <= self._signal_delay_s:
            yield (
                f"slurm.slurm_signal_delay_s: {self._signal_delay_s} s before the end "
                f"of a job of {self.slurm.timeout_min} min leaves no time to run"
            )
        if self.slurm.slurm_use_srun is False and (self.ranks > 1 or self.slurm.slurm_teardown):
            yield "slurm.slurm_use_srun: false allows neither several GPUs per run nor a teardown"

    def _gpu_faults(self) -> Iterator[str]:
        nodes = self.slurm.nodes or 1
        per_node = self.gpus_per_run / nodes
        if self.ranks % nodes:
            yield f"slurm.nodes: {nodes} nodes cannot share {self.ranks} processes evenly"
        if (self.slurm.tasks_per_node or self.ranks // nodes) * nodes != self.ranks:
            yield f"slurm.tasks_per_node: gpus_per_run makes it {self.ranks // nodes}"
        if self.packs and self.ranks > 1:
            yield "packing: 'parallel' puts several runs on one GPU, so gpus_per_run must be 0 or 1"
        requests = self.slurm.gpu_requests()
        if len(requests) > 1:
            yield f"slurm: GPUs are requested twice ({', '.join(requests)})"
        for name, value in requests.items():
            count = re.search(r"(?:^|:)(\d+)(?=,|$)", value.partition("gpu")[2] or value)
            per_task = name.replace("-", "_").endswith("gpus_per_task")
            wanted = min(self.gpus_per_run, 1) if per_task else per_node
            if int(count[1] if count else 1) != wanted:
                yield f"slurm.{name}: {value!r} disagrees with gpus_per_run: {self.gpus_per_run}"

    @property
    def remote(self) -> bool:
        """Whether runs are executed on other machines."""
        return home_of(self.executor) not in ("local", "debug")

    @property
    def _signal_delay_s(self) -> int:
        return self.slurm.slurm_signal_delay_s or _SIGNAL_DELAY_S

    @property
    def mem_gb(self) -> float | None:
        """Host memory that a job requests; None if the profile leaves that to the cluster."""
        given = self.slurm.mem_gb or self.parameters.get("mem_gb")
        return given if isinstance(given, int | float) else None

    @property
    def packs(self) -> bool:
        """Whether the runs of a job run at the same time, on one GPU."""
        return {"parallel": True, "serial": False}[self.packing]

    @property
    def ranks(self) -> int:
        """Number of processes that train one run together."""
        return max(1, self.gpus_per_run)

    def for_backbone(self, backbone: str) -> Self:
        """This profile with the overrides for one backbone applied."""
        return self._merged(backbone) if backbone in self.overrides else self

    def _merged(self, backbone: str) -> Self:
        changed = self.overrides[backbone].given()
        own = {key: changed.pop(key) for key in changed.keys() - Slurm.model_fields.keys()}
        slurm = self.slurm.model_copy(update=changed)
        return self.model_copy(update={**own, "slurm": slurm, "overrides": {}})

    def executor_options(self) -> dict[str, Any]:
        """Keywords for `submitit.AutoExecutor(folder, **options)` on Slurm."""
        options: dict[str, Any] = {"cluster": "slurm", "slurm_max_num_timeout": self.max_requeues}
        if self.slurm.slurm_use_srun is False:
            # The time-limit signal then goes to the batch shell, so python must replace it.
            options["slurm_python"] = "exec " + shlex.quote(sys.executable)
        return options

    def slurm_parameters(self) -> dict[str, Any]:
        """Keywords for `executor.update_parameters(**parameters)` on Slurm.

        Besides `slurm`, these contain what follows from other fields: the tasks and GPUs of a run,
        `env` as `export` lines before the set-up commands, and whether Slurm may requeue.
        """
        given = self.slurm.given()
        nodes = self.slurm.nodes or 1
        given["tasks_per_node"] = self.ranks // nodes
        if self.gpus_per_run and not self.slurm.gpu_requests():
            given["gpus_per_node"] = self.gpus_per_run // nodes
        given["slurm_setup"] = [*self.exports(), *(self.slurm.slurm_setup or ())]
        # Explicit, since a cluster with JobRequeue=0 otherwise refuses `scontrol requeue`.
        extra: dict[str, Any] = {"requeue" if self.max_requeues else "no-requeue": True}
        if self.slurm.slurm_use_srun is False:
            extra["signal"] = f"B:USR2@{self._signal_delay_s}"
        given["slurm_additional_parameters"] = extra | (
            self.slurm.slurm_additional_parameters or {}
        )
        return given

    def exports(self) -> list[str]:
        """`env` as bash lines; in values only `$NAME` and `${NAME}` are expanded, on the node."""
        return [f"export {name}={_bash(str(value))}" for name, value in self.env.items()]

    def environ(self, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
        """`env` with variables in values replaced from `outer`, for runs without a batch script.

        Raises ConfigError if one of them is not set.
        """
        try:
            return {
                name: _REFERENCE.sub(lambda m: outer[m[0].strip("${}")], str(value))
                for name, value in self.env.items()
            }
        except KeyError as error:
            raise ConfigError(f"profile {self.name}: env: ${error.args[0]} is not set") from error


def _bash(value: str) -> str:
    """A bash word: variables are expanded (an unset one ends the script), the rest is literal."""
    pieces = enumerate(_REFERENCE.split(value))  # literal, reference, literal, ...
    words = [f'"${{{p.strip("${}")}:?}}"' if i % 2 else shlex.quote(p) for i, p in pieces if p]
    return "".join(words) or "''"


def names() -> list[str]:
    """The profiles that come with the package."""
    found = [file.name for file in _PACKAGED.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def read_profile(name_or_path: str | Path) -> Profile:
    """A packaged profile by its name, or any profile by its path (ending in .yaml or .yml).

    Raises ConfigError if there is no such profile, or it is unreadable, has unknown keys or wrong
    types, or contradicts itself.
    """
    name = str(name_or_path)
    file: Path | Traversable = Path(name)
    source = name
    if name in names():
        source, file = f"slurm/profiles/{name}.yaml", _PACKAGED / f"{name}.yaml"
    elif Path(name).suffix not in (".yaml", ".yml"):
        known = f"{', '.join(names())}, or the path of a .yaml file"
        raise ConfigError(f"no profile {name!r}{did_you_mean(name, names())} ({known})")
    return _checked(Document(read_text(file, source), source), Path(name).stem)


def _checked(read: Document, name: str) -> Profile:
    if not isinstance(read.data, dict):
        raise ConfigError(f"{read.source}: expected `key: value` lines, got {read.data!r:.40}")
    try:
        profile = Profile.model_validate({"name": name, **completed(read.data, os.environ)})
    except ValidationError as error:
        missing = f"required ({', '.join(EXECUTORS)}, or a plug-in of submitit)"
        note(error, read, _unknown, missing=missing)
    read.check()
    return profile


def _unknown(path: Place) -> str:
    models: dict[int, type[Model]] = {1: Profile, 2: Slurm}
    key, model = str(path[-1]), models.get(len(path), Override)
    valid = [*model.model_fields]
    if model is Profile and key in Slurm.model_fields:
        return f"unknown key: {key!r} belongs under `slurm:`"
    return f"unknown key{did_you_mean(key, valid)} (valid: {', '.join(valid)})"
