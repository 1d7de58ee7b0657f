"""One run from its config file, in this process: what a node executes, without a sweep."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from core.claims import holder
from core.config import ConfigError, EvalConfig, RunConfig
from core.rundir import Store
from sweep import attempt
from sweep.gridfile import GridFile
from sweep.stop import stoppable


def run(file: Path, store: Store, tracking: str, console: Console) -> str:
    """Train and evaluate the run that `file` describes (an optional key `evals` lists its
    evaluations). Returns 'done', 'failed' or 'skipped'. Raises ConfigError for a bad file."""
    try:
        read = GridFile(file.read_text("utf-8"), str(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    read.check()
    data = read.data
    evals = data.pop("evals", [{}])
    config = RunConfig.parse(data, where=str(file))
    asked = [EvalConfig.parse(item, where=f"{file}: evals") for item in evals]
    folder = store.run(config.id)
    console.print(f"{config.id}\n{folder.path}")
    if attempt.is_done(folder, asked):
        console.print("done before; nothing to do", style="green")
        return "done"
    log = logging.getLogger("epsweep")
    handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
    log.addHandler(handler)
    try:
        with stoppable():
            state = attempt.make(config, asked, store, {"tracking": tracking, "group": None})
    finally:
        log.removeHandler(handler)
    if state == "skipped":
        owner = holder(folder)
        where = f"{owner.info.get('host')}, process {owner.info.get('pid')}" if owner else "?"
        raise ConfigError(f"{config.id}: already running ({where})")
    return state
