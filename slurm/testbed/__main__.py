"""The test bed from a shell.

python -m slurm.testbed install [--dbd]          install missing packages with apt-get
python -m slurm.testbed start [--nodes 2 --gpus 4 --acct shim|dbd|none ...]
eval "$(python -m slurm.testbed env)"            then sbatch, squeue, ... use the bed
python -m slurm.testbed status | stop | wipe
"""

import argparse
import getpass
import sys
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from shlex import quote
from subprocess import CalledProcessError

from slurm.testbed import install
from slurm.testbed.bed import Bed, BedError, memory
from slurm.testbed.config import Knobs


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed (one line says why), 2 usage error."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "install":
            print(
                "installed:",
                " ".join(install.install_missing(dbd=options.dbd)) or "nothing was missing",
            )
        elif options.verb == "start":
            given = {f.name: getattr(options, f.name) for f in fields(Knobs)}
            _start(Bed(options.root, **given))
        else:
            _VERBS[options.verb](Bed(options.root))
    except (BedError, ValueError, CalledProcessError) as error:
        print(f"slurm.testbed {options.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _start(bed: Bed) -> None:
    bed.check()
    try:
        bed.start()
    except BedError:
        bed.stop()  # the logs stay
        raise
    print(
        f'{bed.root}: up; run: eval "$(python -m slurm.testbed env --root {quote(str(bed.root))})"'
    )


def _env(bed: Bed) -> None:
    print(f"export SLURM_CONF={quote(str(bed.conf))}")
    print(f"export PATH={quote(str(bed.root / 'bin'))}:$PATH:{install.SBIN}")


def _status(bed: Bed) -> None:
    daemons = sorted(p.node or p.comm for p in bed.processes() if not p.in_job)
    print(f"{bed.root}: {', '.join(daemons) or 'not running'}")
    if daemons:
        print(bed.run("sinfo", "-N", "-o", "%N %P %t %c %m %G"), end="")
        print(bed.run("squeue"), end="")


def _guard(bed: Bed) -> None:
    sys.stdin.read()  # returns when the process at the other end of the pipe ends
    bed.wipe()


_VERBS = {"stop": Bed.stop, "wipe": Bed.wipe, "env": _env, "status": _status, "guard": _guard}


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m slurm.testbed", description=__doc__, formatter_class=layout
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("install").add_argument("--dbd", action="store_true", help="for --acct dbd")
    home = (memory() or Path(tempfile.gettempdir())) / f"slurm-bed-of-{getpass.getuser()}"
    for verb in ("start", *_VERBS):
        verbs.add_parser(verb).add_argument(
            "--root", type=Path, default=home, help=f"folder of the bed ({home})"
        )
    for name, default in asdict(Knobs()).items():
        flag = "--" + name.replace("_", "-")
        kind = str if name == "acct" else int
        verbs.choices["start"].add_argument(flag, type=kind, default=default, help=f"({default})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
