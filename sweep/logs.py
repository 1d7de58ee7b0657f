"""Finding and reading the log of one run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.claims import holder
from core.config import ConfigError, nearest
from core.rundir import RunDir, Store


def find(store: Store, name: str) -> RunDir:
    """The run whose id is `name` or begins with it. Raises ConfigError where none or several do."""
    names = sorted(p.name for p in store.runs.iterdir()) if store.runs.is_dir() else []
    matches = [name] if name in names else [item for item in names if item.startswith(name)]
    if len(matches) == 1:
        return store.run(matches[0])
    if matches:
        raise ConfigError(f"'{name}' begins {len(matches)} run ids: {', '.join(matches[:4])}, ...")
    hint = nearest(name, names) if names else f" ({store.runs} holds none)"
    raise ConfigError(f"no run '{name}'{hint}")


def read(run: RunDir, *, follow: bool) -> Iterator[str]:
    """The log so far; with `follow`, whatever is added until the run ends."""
    if not run.log.is_file():
        raise ConfigError(f"{run.id}: has no log yet")
    with open(run.log, encoding="utf-8") as file:
        yield file.read()
        while follow:
            current = holder(run)
            piece = file.read()
            if piece:
                yield piece
            elif current is None or not current.live:
                return
            else:
                time.sleep(0.5)
