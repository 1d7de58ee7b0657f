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
from sweep.fields import show
from sweep.gridfile import GridFile
from sweep.stop import stoppable


def run(file: Path, store: Store, tracking: str, console: Console) -> str:
    """Train and evaluate the run that `file` describes (an optional key `evals` lists its
    evaluations). Returns 'done', 'failed' or 'skipped'. Raises ConfigError for a bad file."""
    try:
        read = GridFile(file.read_text("utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    read.check()
    data = read.data
    evals = data.pop("evals", [{}])
    if not (isinstance(evals, list) and all(isinstance(item, dict) for item in evals)):
        line = read.line(("evals",))
        raise ConfigError(f"{file}:{line}: evals: expected a list of mappings, got {show(evals)}")
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
    if state == "skipped" and folder.cancel.exists():
        raise ConfigError(f"{config.id}: was cancelled; `sweep retry`, or remove {folder.cancel}")
    if state == "skipped":
        owner = holder(folder)
        where = f"{owner.info.get('host')}, process {owner.info.get('pid')}" if owner else "?"
        raise ConfigError(f"{config.id}: already running ({where})")
    return state
