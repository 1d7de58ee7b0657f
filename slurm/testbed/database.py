"""The MariaDB of a test bed, with its own data folder, socket and loopback port."""

import getpass
import os
from pathlib import Path


def create_command(root: Path) -> list[str]:
    """The command that creates an empty data folder; only this user is superuser, by the socket."""
    return [
        "mariadb-install-db",
        "--no-defaults",
        *_as_root(),
        f"--datadir={root}/mysql",
        f"--auth-root-socket-user={getpass.getuser()}",
        "--skip-test-db",
        "--innodb-log-file-size=16M",
    ]


def start_command(root: Path, port: int) -> list[str]:
    """The command that starts the server in the background; a crash may lose its last second."""
    return [
        "setsid",
        "--fork",
        "mariadbd",
        "--no-defaults",
        *_as_root(),
        f"--datadir={root}/mysql",
        f"--socket={root}/run/mysql.sock",
        f"--pid-file={root}/run/mariadbd.pid",
        f"--log-error={root}/log/mariadbd.log",
        "--bind-address=127.0.0.1",
        f"--port={port}",
        "--skip-name-resolve",
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=64M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",  # recommended by slurmdbd
    ]


def client_command(root: Path, statement: str) -> list[str]:
    """The command that runs one SQL statement as superuser."""
    login = [f"--user={getpass.getuser()}", f"--socket={root}/run/mysql.sock"]
    return ["mariadb", "--no-defaults", *login, f"--execute={statement}"]


def grant(password: str) -> str:
    """The statement that grants slurmdbd access. password: hexadecimal."""
    who = "slurm@'127.0.0.1'"
    return (
        f"CREATE OR REPLACE USER {who} IDENTIFIED BY '{password}';"
        f"GRANT ALL ON slurm_acct_db.* TO {who};"
    )


def _as_root() -> list[str]:
    return [] if os.geteuid() else ["--user=root"]
