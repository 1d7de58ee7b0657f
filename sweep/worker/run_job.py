"""What a node runs for `sweep launch`: `RunJob` executes the runs of a frozen manifest in turn."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EvalConfig, RunConfig
from core.config.names import parent_of
from core.config.settings import beat_seconds
from core.options import Mode, Options
from core.store import shapes
from core.store.folders import RunDir
from slurm import environment
from sweep.state import breaker, parents, repair
from sweep.worker import attempt
from sweep.worker.job import Job, await_former, call_off, may_begin, rows_of, side_by_side

if TYPE_CHECKING:
    from core.machine.team import Team  # imports torch

log = logging.getLogger("epsweep")


@dataclass(frozen=True)
class RunJob(Job):
    """Executes the runs that are neither done nor claimed. sweep: the name of their sweep."""

    tracking: Mode = "auto"
    max_lost: int = 3
    """How many attempts at one run within this submission may die without recording a reason; after
    more, the run itself seems to kill its workers."""
    together: bool = False
    """Run the rows at the same time, one process each, instead of one after another."""
    alone: bool = False
    """Whether no other job has these rows. If so, a live claim under this job's id is left from
    before Slurm restarted the job: wait until its heartbeat is stale."""
    batches: int | None = None
    """For a rehearsal: train on this many batches in all, divided among the epochs."""

    def __call__(self) -> dict[str, int]:
        """Returns outcome -> number of runs, e.g. {'done': 3, 'failed': 1, 'skipped': 2}.

        If the job has several processes (ranks), they do each run together."""
        if environment.current().rank:
            return self._assist()
        return super().__call__()

    def work(self) -> dict[str, int]:
        if self.together and self.count > 1:
            return self._side_by_side()
        team, outcomes = self._team(), Counter[str]()
        rows = self._rows()
        for number in self._turns(rows):
            if team:
                team.share(number)
            if number is None:
                continue
            # A rehearsal is meant to find every fault, and each costs only seconds.
            held = None if self.batches else breaker.tripped(self.store.sweep(self.sweep))
            if held:
                log.warning("%s", held)
                call_off()
                break
            outcome = self._one(rows[number], team)
            outcomes[outcome] += 1
            if team and outcome not in ("done", "skipped"):
                break  # the other processes of the team have ended or are out of step
        else:
            if team:
                team.part()
        return dict(outcomes)

    def _assist(self) -> dict[str, int]:
        """Work on the same rows as the leader, whose team this process is in."""
        outcomes, team = Counter[str](), self._team()
        assert team
        # The leader gets the same signals and reports how the run ended; see core.machine.team.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        rows, ended = self._rows(), 0
        while ended < len(rows):
            number = team.share()
            if number is None:
                continue
            ended += 1
            config, evals = _parsed(rows[number])
            options = self._options(config)
            outcomes[attempt.assist(config, evals, self.store, options, team)] += 1
        team.part()
        return dict(outcomes)

    def _team(self) -> Team | None:
        """The processes of this job, once all have joined; None if it has only one."""
        here = environment.current()
        if here.world_size == 1:
            return None
        self.limit_threads()
        from submitit import JobEnvironment  # 0.1 s to import; a launch does not need it

        from core.machine import team

        job = f"{JobEnvironment().job_id}_{here.restarts}"
        file = self.store.sweep(self.sweep).logs / f"{job}_team.json"
        return team.join(file, here.rank, here.world_size, local_rank=here.local_rank)

    def _rows(self) -> list[dict[str, Any]]:
        return rows_of(Path(self.manifest), self.first, self.count, shapes.Manifest)

    def _side_by_side(self) -> dict[str, int]:
        """One process per row, on the same GPU; if one dies the others continue."""
        threads = max(1, self.threads // self.count) if self.threads else None
        return side_by_side(
            replace(self, first=row, count=1, together=False, threads=threads)
            for row in range(self.first, self.first + self.count)
        )

    def _turns(self, rows: Sequence[dict[str, Any]]) -> Iterator[int | None]:
        """Yields the row numbers in the order to do them: rows whose parent is still in another
        process's hands come after those that can begin. Yields None after each wait for such a
        parent."""
        left, passed, runs = deque(range(len(rows))), 0, self.store.runs
        while left:
            number = left.popleft()
            if parents.is_awaited(parent_of(rows[number]["config"]["weights"]), runs):
                left.append(number)
                passed += 1
                if passed == len(left):
                    time.sleep(min(1.0, beat_seconds()))
                    passed = 0
                    yield None
            else:
                passed = 0
                yield number

    def _one(self, row: dict[str, Any], team: Team | None) -> str:
        config, evals = _parsed(row)
        if not self._may_begin(self.store.run(config.id), row["after"]):
            if team:
                team.share(False)
            return "skipped"
        return self.do(config, evals, team)

    def do(self, config: RunConfig, evals: Sequence[EvalConfig], team: Team | None = None) -> str:
        """Execute one run, which need not be among the rows. Returns as attempt.make."""
        if parents.obstacle(config.parent, self.store.runs):
            if team:
                team.share(False)
            return "skipped"
        self.limit_threads()
        options = self._options(config)
        return attempt.make(config, evals, self.store, options, gpus=self.gpus, team=team)

    def _options(self, config: RunConfig) -> Options:
        images = max(1, self.batches // config.epochs) * config.batch if self.batches else None
        asked = Options(
            tracking=self.tracking,
            group=self.sweep,
            images=images,
            rehearsal=self.batches is not None,
            compile=self.compile,
            stage=self.stage,
        )
        return repair.read(self.store.run(config.id)).applied(asked)

    def _may_begin(self, folder: RunDir, after: int) -> bool:
        """Whether this submission may begin the run (again)."""
        if self.alone:
            await_former(folder)
        return may_begin(folder, after, self.max_lost)


def _parsed(row: dict[str, Any]) -> tuple[RunConfig, list[EvalConfig]]:
    evals = [EvalConfig.parse(item) for item in row["evals"].values()]
    return RunConfig.parse(row["config"], where=row["id"]), evals
