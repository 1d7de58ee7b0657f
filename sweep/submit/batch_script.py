"""The batch script of an array, what Slurm says of it, and the limits it has to keep to."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import ConfigError
from core.errors import ClusterError
from core.store.folders import SweepDir
from slurm import cluster, limits
from slurm.profile import Profile
from sweep.state import joblog
from sweep.submit import frozen_code
from sweep.worker import custody

if TYPE_CHECKING:
    from sweep.submit import bundle


def executor(sweep: SweepDir, code: Path, profile: Profile, name: str) -> bundle.Executor:
    """submitit's Slurm executor, set up by the profile, with logs in the sweep's folder. Raises
    ClusterError on a machine without Slurm, ConfigError for several clusters or a folder that Slurm
    cannot write logs to."""
    if not (cluster.available() and shutil.which("srun")):
        raise ClusterError(f"profile {profile.name}: Slurm's commands are not on the PATH here")
    if problem := cluster.several():
        raise ConfigError(problem)
    if odd := re.search(r"[%\\\x00-\x1f]", str(sweep.logs)):
        raise ConfigError(
            f"{sweep.path}: a results folder may not have {odd[0]!r} in its path on Slurm, which "
            "reads names of log files as patterns"
        )
    import submitit  # 0.1 s, which a status does without

    from sweep.submit import bundle

    made = submitit.AutoExecutor(sweep.logs, **profile.executor_options())
    plain: Any = made._executor
    made._executor = bundle.Executor(plain.folder, plain.max_num_timeout, python=plain.python)
    exports = {
        "PYTHONSAFEPATH": "1",  # else the launch's working folder precedes the frozen code
        "PYTHONDONTWRITEBYTECODE": "1",  # a group could write to a cache in the frozen code
        "SLURM_EXPORT_ENV": "ALL",  # srun passes on what is set here, whatever sbatch did
        "EPSWEEP_HEARTBEAT_S": f"{profile.heartbeat_s:g}",
        "EPSWEEP_STALE_S": f"{profile.stale_s:g}",
    }
    start = f'echo "{joblog.START} ${{SLURM_RESTART_COUNT:-0}} on $SLURMD_NODENAME" >&2'
    ours = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    # Set last and put first on the path, so that nothing a profile or site sets takes precedence
    # over the frozen code; packages on a site's PYTHONPATH are still found, after it.
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters = profile.slurm_parameters()
    ours += [*custody.guard(code), path]
    parameters["slurm_setup"] = [start, *parameters["slurm_setup"], *ours]
    made.update_parameters(slurm_job_name=name, **parameters)
    sender: bundle.Executor = made._executor
    if not profile.slurm.slurm_wckey:
        sender.parameters["wckey"] = None  # the cluster may not know submitit's default wckey
    return sender


def text(tasks: int, sweep: SweepDir, profile: Profile, code: frozen_code.Code = ()) -> str:
    """The batch script of an array of `tasks` tasks, as submitit renders it. code: the user's code
    that the tasks need."""
    frozen = frozen_code.place(sweep, code)
    return executor(sweep, frozen, profile, f"epsweep-{sweep.path.name}").text(tasks)


def verdict(script: str, scratch: Path) -> str:
    """Slurm's answer to a batch script without submitting it (`sbatch --test-only`). Raises
    ClusterError if it would be refused."""
    path = scratch / "dry-run.sh"
    path.write_text(script)
    return cluster.test_only(path)


def limits_of(profile: Profile) -> limits.Limits:
    return limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")
