"""A run and claims on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.store.claims import Claim
from core.store.folders import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs" / "r")


@pytest.fixture
def acquire() -> Iterator[Callable[..., Claim | None]]:
    """Claim.acquire, but every claim is released in the end: its heartbeat is a thread."""
    taken: list[Claim] = []

    def acquired(run: RunDir, **options: Any) -> Claim | None:
        claim = Claim.acquire(run, **options)
        if claim:
            taken.append(claim)
        return claim

    yield acquired
    for claim in taken:
        claim.release("interrupted")
