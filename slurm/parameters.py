"""The Slurm parameters that a profile may set in `slurm:` and `overrides:`: submitit's names, each
with its type.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from core.config import credentials

# sbatch options that are set by another name in a profile; None: only the launcher sets them
_OWN_NAME: dict[str, str | None] = {
    "time": "timeout_min",
    "mem": "mem_gb",
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
    "cpus-per-task": "cpus_per_task",
    "ntasks": "gpus_per_run",
    "ntasks-per-node": "gpus_per_run",
    "signal": "slurm_signal_delay_s",
    "requeue": "max_requeues",
    "no-requeue": "max_requeues",
    **dict.fromkeys(
        ("cluster", "clusters"), "the variable SLURM_CLUSTERS, which squeue reads too,"
    ),
    **dict.fromkeys(("array", "job-name", "output", "error", "open-mode", "wait")),
}

_MEANT = {
    "SBATCH_PARTITION": "slurm_partition",
    "SBATCH_ACCOUNT": "slurm_account",
    "SBATCH_QOS": "slurm_qos",
    "SBATCH_CONSTRAINT": "slurm_constraint",
    "SBATCH_WCKEY": "slurm_wckey",
}
"""Variables of sbatch that set what a profile leaves out, as SBATCH_RESERVATION does; others are
ignored."""


def _one_line(text: str) -> str:
    # A line break in a value would end its #SBATCH comment; the rest would run as a command.
    if any(c in text for c in "\n\r\0"):
        raise ValueError("must be one line of text")
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError("is not the name of an environment variable")
    if credentials.is_name(name):
        raise ValueError(credentials.ADVICE)
    return name


def _command(line: str) -> str:
    if credentials.is_command(line):
        raise ValueError(credentials.ADVICE)
    return line


def _harmless(value: bool | int | str) -> bool | int | str:
    _command(str(value))
    return value


def _option(name: str) -> str:
    if (option := name.replace("_", "-")) in _OWN_NAME:
        own = _OWN_NAME[option]
        raise ValueError(f"use {own} instead" if own else "is set by the launcher")
    return name


def _srun_option(text: str) -> str:
    if re.match(r"--(export|output|error|label)\b|-[oel]", text):
        raise ValueError("is set by the launcher")
    return _command(text)


Integer = Annotated[int, Field(strict=True)]
Count = Annotated[Integer, Field(ge=1)]
CountOrNone = Annotated[Integer, Field(ge=0)]
Amount = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Line = Annotated[str, AfterValidator(_one_line)]
Text = Annotated[Line, Field(min_length=1)]
Variable = Annotated[str, AfterValidator(_variable)]
Commands = tuple[Annotated[Text, AfterValidator(_command)], ...]
Value = Literal[True] | Integer | Text
Options = dict[
    Annotated[Text, AfterValidator(_option)], Annotated[Value, AfterValidator(_harmless)]
]


class Model(BaseModel):
    """A frozen mapping that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Slurm(Model):
    """Keywords of submitit's `update_parameters`; those left out keep submitit's defaults."""

    timeout_min: Count | None = None
    mem_gb: Amount | None = None
    nodes: Count | None = None
    tasks_per_node: Count | None = None
    cpus_per_task: Count | None = None
    gpus_per_node: CountOrNone | None = None
    stderr_to_stdout: StrictBool | None = None
    slurm_gpus_per_node: CountOrNone | Text | None = None  # "h100:1": a typed GPU
    slurm_gpus_per_task: Count | None = None
    slurm_cpus_per_gpu: Count | None = None
    slurm_gres: Text | None = None
    slurm_mem_per_gpu: Text | None = None
    slurm_mem_per_cpu: Text | None = None
    slurm_partition: Text | None = None
    slurm_account: Text | None = None
    slurm_qos: Text | None = None
    slurm_constraint: Text | None = None
    slurm_exclude: Text | None = None
    slurm_nodelist: Text | None = None
    slurm_exclusive: Literal[True] | Text | None = None
    slurm_wckey: Line | None = None  # "" is the same as leaving it out
    slurm_comment: Text | None = None
    slurm_mail_type: Text | None = None
    slurm_mail_user: Text | None = None
    slurm_array_parallelism: Count | None = None
    slurm_signal_delay_s: Count | None = None
    slurm_setup: Commands | None = None
    slurm_teardown: Commands | None = None
    slurm_use_srun: StrictBool | None = None
    slurm_srun_args: tuple[Annotated[Text, AfterValidator(_srun_option)], ...] | None = None
    slurm_additional_parameters: Options | None = None

    def given(self) -> dict[str, Any]:
        """The values that are set, as plain data."""
        return self.model_dump(exclude_none=True)

    def gpu_requests(self) -> dict[str, str]:
        """All parameters that request GPUs: name -> value, such as "2", "h100:1", "gpu:2"."""
        given = self.given()
        given |= given.pop("slurm_additional_parameters", {})
        asked = {n: str(v) for n, v in given.items() if re.match("(slurm_)?(gpus|gres)([_-]|$)", n)}
        return {n: v for n, v in asked.items() if "gres" not in n or "gpu" in v}


class Override(Slurm):
    """What differs for one backbone: Slurm parameters, and how many runs share a job."""

    gpus_per_run: CountOrNone | None = None
    gpu_memory_gb: Amount | None = None
    runs_per_job: Count | None = None
    packing: Literal["serial", "parallel"] | None = None


def completed(profile: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """A Slurm profile completed from the user's environment variables, such as SBATCH_ACCOUNT. The
    profile takes precedence; with sbatch alone, the variables would."""
    given = profile.get("slurm") or {}
    if profile.get("executor") != "slurm" or not isinstance(given, dict):
        return profile
    filled: dict[str, Any] = {_MEANT[name]: environ[name] for name in _MEANT if environ.get(name)}
    filled |= {key: value for key, value in given.items() if value is not None}
    more: Any = filled.get("slurm_additional_parameters", {})
    if environ.get("SBATCH_RESERVATION") and isinstance(more, dict):
        reservation = {"reservation": environ["SBATCH_RESERVATION"]}
        filled["slurm_additional_parameters"] = reservation | more
    return {**profile, "slurm": filled}
