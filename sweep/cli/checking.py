"""The verbs doctor and sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from core.errors import counted
from core.store.folders import Store
from sweep.cli.opening import manifest, opened, tuned_grid
from sweep.cli.options import LOOK, PREPARE, GridArgument, Json, Only, ProfileOption, Root
from sweep.cli.printing import out, print_json

if TYPE_CHECKING:
    from sweep.grid import Run

verbs = typer.Typer()


@verbs.command(rich_help_panel=PREPARE)
def doctor(
    grid: Annotated[
        str | None, typer.Argument(metavar="GRID", help="A grid; its inputs are checked, too.")
    ] = None,
    profile: ProfileOption = "local",
    root: Root = None,
    node: Annotated[
        bool, typer.Option("--node", help="Also check torch on a compute node, by a short job.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that a launch would work: profile, cluster, limits, data, weights, disk, W&B, GPU."""
    from dataclasses import asdict

    from sweep import checkup, launcher

    where = launcher.load_profile(profile)
    store = Store.at(root)
    loaded = tuned_grid(grid, store) if grid else None
    checks = checkup.examine(where, store, loaded, node=node)
    if json:
        print_json([asdict(check) for check in checks])
    else:
        out.print(checkup.table(checks))
    raise typer.Exit(int(any(check.verdict == "fail" for check in checks)))


@verbs.command(rich_help_panel=LOOK)
def sync(
    grid: GridArgument,
    root: Root = None,
    only: Only = None,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="ENTITY/PROJECT", help="Compare W&B with the run folders."),
    ] = None,
) -> None:
    """Upload the runs that were tracked offline and are not on W&B yet."""
    from sweep import upload

    store, _, seen = opened(grid, root, only)
    if check:
        raise typer.Exit(_compare(seen.runs, store, check))
    folders = upload.segments(seen.runs, store)
    if folders:
        upload.check_login()
    failed = 0
    for number, (folder, problem) in enumerate(upload.upload_segments(folders), start=1):
        failed += problem is not None
        line = f"{number}/{len(folders)} {folder.parent.parent.name}: {problem or 'uploaded'}"
        out.print(Text(line, style="red" if problem else ""), soft_wrap=True)
    out.print(
        f"{len(folders) - failed} uploaded, {failed} left" if folders else "nothing to upload"
    )
    raise typer.Exit(1 if failed else 0)


def _compare(runs: list[Run], store: Store, project: str) -> int:
    """Print how W&B's curves differ from the run folders, which are the truth. Exit code 0 or 1."""
    from analysis import Results
    from analysis.mirror import differences, wandb_history

    results = Results(store.root, manifest(runs))
    found = differences(results, wandb_history(project))
    for line in found:
        out.print(Text(line, style="red"), soft_wrap=True)
    out.print(f"{counted(len(found), 'difference')}" if found else "W&B and the run folders agree")
    return int(bool(found))
