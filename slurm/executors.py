"""What executes jobs: epsweep's executors, and plug-ins that installed packages add to submitit."""

from typing import Literal, cast

from core.errors import first_line

Home = Literal["local", "debug", "slurm", "ray", "plug-in"]
"""Where an executor runs jobs: here, in this process, on Slurm, on Ray, or wherever a plug-in of
submitit does."""
EXECUTORS = ("local", "debug", "slurm", "ray")
"""The executors of epsweep; others are plug-ins of submitit."""


def home_of(executor: str) -> Home:
    """Where the executor of a profile or a record runs jobs."""
    return cast(Home, executor) if executor in EXECUTORS else "plug-in"


def plugins() -> tuple[list[str], str]:
    """Executors that installed packages add to submitit, and a text about plug-ins that failed."""
    from importlib import metadata  # 0.04 s to import, and shipped profiles do not need it

    found, broken = [], ""
    for entry in metadata.entry_points(group="submitit", name="executor"):
        try:
            found.append(str(entry.load().name()))
        except Exception as error:  # whatever its import raises
            why = f"{type(error).__name__}: {first_line(error)}"
            broken += f"; plug-in {entry.value} cannot be imported ({why})"
    return sorted({*found} - {*EXECUTORS}), broken
