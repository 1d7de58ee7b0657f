"""A stand-in for sacct without an accounting database: the test bed's acct="shim".

A script that answers `sacct [-n] [-P] [-X] -o FIELDS -j IDS` from `squeue`. Unlike sacct it knows
no steps, does not lag, and forgets a job when slurmctld does (the bed's min_job_age).
"""

import os
import subprocess
import sys
from argparse import ArgumentParser

# field name in sacct -> in squeue
_FIELDS = {
    "JobID": "JobArrayID",
    "JobIDRaw": "JobID",
    "State": "State",
    "NodeList": "NodeList",
    "JobName": "Name",
    "ExitCode": "exit_code",
}


def main() -> int:
    """Print the table that sacct would; the exit code is squeue's, so that it shows outages."""
    parser = ArgumentParser(prog="sacct", allow_abbrev=False)
    parser.add_argument("-n", "--noheader", action="store_true")
    parser.add_argument("-P", "--parsable2", action="store_true", required=True)
    parser.add_argument("-X", "--allocations", action="store_true")
    parser.add_argument("-o", "--format", default="JobID,State,NodeList,ExitCode")
    parser.add_argument("-j", "--jobs", action="append", required=True)
    options = parser.parse_args()
    fields = options.format.split(",")
    wanted = {job for jobs in options.jobs for job in jobs.split(",")}
    columns = ",".join(f"{_FIELDS.get(field, 'Name')}:|" for field in fields)
    answer = subprocess.run(
        ["squeue", "-h", "-r", "-t", "all", "-O", f"JobArrayID:|,{columns}"],
        env=os.environ | {"SLURM_BITSTR_LEN": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if not options.noheader:
        print("|".join(fields))
    for line in answer.stdout.splitlines():
        job, *values = line.split("|")[:-1]
        if wanted & {job, job.partition("_")[0]}:
            print("|".join(map(_as_sacct, fields, values)))
    return answer.returncode


def _as_sacct(field: str, value: str) -> str:
    if field == "ExitCode" and ":" not in value:  # squeue 22.05 prints a wait status
        return f"{int(value) >> 8}:{int(value) & 127}"
    return value if field in _FIELDS else ""


if __name__ == "__main__":
    sys.exit(main())
