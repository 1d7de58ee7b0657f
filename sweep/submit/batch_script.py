"""The batch script of an array, what Slurm says of it, and the limits it has to keep to."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import submitit

from core.config import ConfigError
from core.errors import ClusterError
from core.store.folders import SweepDir
from slurm import cluster, limits
from slurm.profile import Profile
from sweep.state import joblog
from sweep.submit import bundle, frozen_code
from sweep.worker import custody


def executor(sweep: SweepDir, code: Path, profile: Profile, name: str) -> bundle.Executor:
    """submitit's Slurm executor with everything the profile says; its logs go to the sweep. Raises
    ClusterError on a machine without Slurm, ConfigError for a folder that Slurm cannot log to."""
    if not (cluster.available() and shutil.which("srun")):
        raise ClusterError(f"profile {profile.name}: Slurm's commands are not on the PATH here")
    if problem := cluster.several():
        raise ConfigError(problem)
    if odd := re.search(r"[%\\\x00-\x1f]", str(sweep.logs)):
        raise ConfigError(
            f"{sweep.path}: a folder of results on Slurm may not have {odd[0]!r} in its path: "
            "Slurm reads names of log files as patterns"
        )
    made = submitit.AutoExecutor(sweep.logs, **profile.executor_options())
    plain: Any = made._executor
    made._executor = bundle.Executor(plain.folder, plain.max_num_timeout, python=plain.python)
    exports = {
        "PYTHONSAFEPATH": "1",  # else the folder of the launch comes first, frozen or not
        "PYTHONDONTWRITEBYTECODE": "1",  # a cache in the frozen code would be open to a group
        "SLURM_EXPORT_ENV": "ALL",  # srun hands on what is set here, whatever sbatch did
        "EPSWEEP_HEARTBEAT_S": f"{profile.heartbeat_s:g}",
        "EPSWEEP_STALE_S": f"{profile.stale_s:g}",
    }
    start = f'echo "{joblog.START} ${{SLURM_RESTART_COUNT:-0}} on $SLURMD_NODENAME" >&2'
    ours = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    # Last, and first on the path: nothing that a profile or a site sets leads around the frozen
    # code, and packages that a site gives by PYTHONPATH are found behind it.
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters = profile.slurm_parameters()
    ours += [*custody.guard(code), path]
    parameters["slurm_setup"] = [start, *parameters["slurm_setup"], *ours]
    made.update_parameters(slurm_job_name=name, **parameters)
    sender: bundle.Executor = made._executor
    if not profile.slurm.slurm_wckey:
        sender.parameters["wckey"] = None  # submitit's own default may be none of the cluster's
    return sender


def text(tasks: int, sweep: SweepDir, profile: Profile, code: frozen_code.Code = ()) -> str:
    """The batch script of one array: submitit's own rendering, as it makes it before sbatch. code:
    the own code that its tasks need."""
    frozen = frozen_code.place(sweep, code)
    return executor(sweep, frozen, profile, f"epsweep-{sweep.path.name}").text(tasks)


def verdict(script: str, scratch: Path) -> str:
    """What Slurm says of a batch script without submitting it. Raises ClusterError if it would
    be refused."""
    path = scratch / "dry-run.sh"
    path.write_text(script)
    return cluster.test_only(path)


def limits_of(profile: Profile) -> limits.Limits:
    return limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")
