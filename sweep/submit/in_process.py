"""The backend that works in this process (executor `debug`), and one run from its config file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.document import read_text
from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.errors import counted
from core.options import Mode, Options
from core.store.files import exists
from core.store.folders import Store
from core.store.holder import find_holder
from sweep.grid.fields import show
from sweep.grid.file import GridFile
from sweep.state import parents
from sweep.submit import local
from sweep.submit.backend import Backend, Ordered, Started
from sweep.submit.order import Order, Share
from sweep.worker import attempt
from sweep.worker.stop import stoppable


def run(file: Path, store: Store, tracking: Mode, console: Console) -> str:
    """Train and evaluate the run that `file` describes (an optional key `evals` lists its
    evaluations). Returns as attempt.make, but never 'skipped'. Raises ConfigError for a bad file,
    and for a run that is running, cancelled or whose inputs have changed."""
    read = GridFile(read_text(file, str(file)), str(file))
    read.check()
    data = read.data
    evals = data.pop("evals", [{}])
    if not (isinstance(evals, list) and all(isinstance(item, dict) for item in evals)):
        line = read.line(("evals",))
        raise ConfigError(f"{file}:{line}: evals: expected a list of mappings, got {show(evals)}")
    config = RunConfig.parse(data, where=str(file)).with_code()
    asked = [EvalConfig.parse(item, where=f"{file}: evals") for item in evals]
    folder = store.run(config.id)
    console.print(f"{config.id}\n{folder.path}")
    if waits := parents.obstacle(config.parent, store.runs):
        raise ConfigError(f"{config.id}: {waits}")
    changed = Known(store).changed(Sources.of(config), recorded(folder))
    if changed:
        raise ConfigError(f"{config.id}: {changed}; remove {folder.path} to train it anew")
    if attempt.is_done(folder, asked):
        console.print("already done; nothing to do", style="green")
        return "done"
    with stoppable(), _shown(console):
        state = attempt.make(config, asked, store, Options(tracking=tracking))
    if state == "skipped" and exists(folder.cancel):
        raise ConfigError(f"{config.id}: was cancelled; `sweep retry`, or remove {folder.cancel}")
    if state == "skipped":
        owner = find_holder(folder)
        where = f"{owner.info.get('host')}, process {owner.info.get('pid')}" if owner else "?"
        raise ConfigError(f"{config.id}: already running ({where})")
    return state


class InProcess(Backend):
    """Runs the order in this process, for debugging with breakpoints and tracebacks."""

    def start(self, order: Ordered) -> Started[Ordered]:
        share = Share(1, None, min(1, len(local.visible_gpus())))
        task = order.worker(order.freeze(), 0, share)

        def here(console: Console) -> None:
            with stoppable(), local.environ(order.profile.environ()), _shown(console):
                task.work()

        return Started(here=here)

    def script(self, order: Order) -> list[str]:
        return [f"# profile {order.profile.name}: this process does {counted(order.size, 'run')}"]


BACKEND = InProcess()


@contextmanager
def _shown(console: Console) -> Iterator[None]:
    """Also print the log to the console."""
    log = logging.getLogger("epsweep")
    handler = RichHandler(console=console, show_path=False, omit_repeated_times=False)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
