"""The command line: `sweep VERB ...`. Each verb composes the packages and prints the outcome.

Exit codes: 0 ok, 1 failure, 2 usage or bad input, 3 incomplete results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from copy import copy
from typing import Annotated

import typer
from rich.text import Text
from typer.main import get_command_name
from typer.models import CommandInfo

from core.config import ConfigError, settings
from core.config.values import at_home
from core.errors import ClusterError, DamagedError, StoppedError
from sweep.cli import (
    checking,
    data,
    following,
    gallery,
    guide,
    page,
    results,
    running,
    tuning,
    weights,
    working,
)
from sweep.cli.options import PREPARE
from sweep.cli.printing import err
from sweep.cli.terminal import UsageError, fit_encoding, literal, mistake
from sweep.worker.stop import own_signals

__all__ = ["app", "main"]

app = typer.Typer(
    name="sweep",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Sweep robust fine-tuning: turn one grid file into jobs, curves and the paper's tables.",
    epilog=(
        "Before a launch: plan shows the runs and changes nothing; launch --dry-run also shows "
        "the job script; doctor checks that machine, cluster, data and weights are ready; dry-run "
        "trains every kind of run in miniature."
    ),
)
app.add_typer(data.verbs, name="data", rich_help_panel=PREPARE)
app.add_typer(weights.verbs, name="weights", rich_help_panel=PREPARE)
for verbs in (
    running.verbs,
    following.verbs,
    working.verbs,
    tuning.verbs,
    results.verbs,
    page.verbs,
    gallery.verbs,
    guide.verbs,
    checking.verbs,
):
    app.add_typer(verbs)


def show_version(asked: bool) -> None:
    """Print version and commit and exit, before any verb is parsed."""
    if asked:
        from importlib import metadata  # 0.04 s to import

        from core.store import source

        code = source.state()
        commit = f" (commit {code['commit'][:12]})" if code["commit"] else ""
        typer.echo(f"epsweep {metadata.version('epsweep')}{commit}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and commit and exit.",
            callback=show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Options of `sweep` itself, before the verb."""


def main() -> None:
    """Entry point of the console script: known failures become one line each, never a traceback."""
    fit_encoding()
    own_signals()
    try:
        settings.check()
        words = spread_only(map(from_home, sys.argv[1:]))
        command = literal(lean(words[0] if words else ""))
        code = command(words, prog_name="sweep", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        if told := mistake(error):
            err.print(Text(told, style="red"), soft_wrap=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except ConfigError as error:
        for line in str(error).splitlines():
            err.print(Text(line, style="red"), soft_wrap=True)
        sys.exit(2)
    except (ClusterError, DamagedError) as error:
        err.print(Text(str(error), style="red"), soft_wrap=True)
        sys.exit(1)
    except StoppedError:
        err.print("stopped; repeat the command to resume the runs", style="yellow")
        sys.exit(130)
    except OSError as error:
        err.print(Text(f"{error.filename or 'disk'}: {error.strerror}", style="red"))
        sys.exit(1)


def lean(verb: str) -> typer.Typer:
    """`app` with this verb alone, which saves 0.02 s; all of it if there is no such verb."""
    for group in app.registered_groups:
        made = group.typer_instance.registered_commands if group.typer_instance else []
        found = [one for one in made if one.callback and name_of(one) == verb]
        if found and not group.name:
            alone = copy(app)
            alone.registered_groups, alone.registered_commands = [], found
            return alone
    return app


def name_of(command: CommandInfo) -> str:
    """How a command is called."""
    assert command.callback
    return command.name or get_command_name(command.callback.__name__)


def from_home(argument: str) -> str:
    """Expand `~` in `--root=~/x`: shells expand it only at the start of a word."""
    option, equals, path = argument.partition("=")
    if argument.startswith("-") and path.startswith("~"):
        return f"{option}{equals}{at_home(path)}"
    return str(at_home(argument)) if argument.startswith("~") else argument


def spread_only(arguments: Iterable[str]) -> list[str]:
    """Rewrite `--only a=1 b=2` as `--only a=1 --only b=2`, the form the option parser accepts.

    Likewise for each option in MANY, up to the first word that cannot belong to its list."""
    found: list[str] = []
    taking = ""
    for argument in arguments:
        if argument.startswith("-"):
            taking = argument if argument in MANY else ""
        elif taking and found[-1] != taking:
            if MANY[taking](found[0], argument):
                found.append(taking)
            else:
                taking = ""
        found.append(argument)
    return found


MANY: dict[str, Callable[[str, str], bool]] = {
    "--only": lambda _, word: "=" in word,
    "--table": lambda _, word: word.isdigit() or word in (*results.TABLES, *guide.TABLES),
    "--figure": lambda _, word: word in (*results.FIGURES, *guide.FIGURES),
    "--strength": lambda _, word: word[0].isdigit(),
    "--threat": lambda _, word: word in guide.THREATS,
    # Every word after --from is a file: these verbs take a grid before it. Other verbs' --from
    # takes one path.
    "--from": lambda verb, _: verb in ("tables", "figures"),
}
"""Option that takes a list -> (verb, word) -> whether the word, after the first, belongs to it."""
