"""The limits of a cluster: which apply to a user, and the tightest of them."""

import pytest
from fake_slurm import CONFIG, Fake

from slurm import limits
from slurm.limits import Cap, Limits

ASSOCIATIONS = """\
Current Association Manager state

Association Records

ClusterName=c Account=root UserName= Partition= Priority=0 ID=1
    ParentAccount= Lft=1 DefAssoc=No
    GrpSubmitJobs=N(90) GrpWall=N(0.00)
    MaxJobs= MaxJobsAccrue= MaxSubmitJobs= MaxWallPJ=
ClusterName=c Account=lab UserName= Partition= Priority=0 ID=3
    ParentAccount=root(1) Lft=2 DefAssoc=No
    GrpSubmitJobs=100(88) GrpWall=N(0.00)
    MaxJobs= MaxJobsAccrue= MaxSubmitJobs= MaxWallPJ=
ClusterName=c Account=lab UserName=me(1000) Partition= Priority=0 ID=5
    ParentAccount= Lft=4 DefAssoc=Yes
    GrpSubmitJobs=N(30) GrpWall=N(0.00)
    MaxJobs= MaxJobsAccrue= MaxSubmitJobs=50(30) MaxWallPJ=
ClusterName=c Account=lab UserName=me(1000) Partition=debug Priority=0 ID=6
    ParentAccount= Lft=4 DefAssoc=Yes
    MaxJobs= MaxJobsAccrue= MaxSubmitJobs=1(0) MaxWallPJ=
ClusterName=c Account=rich UserName= Partition= Priority=0 ID=7
    ParentAccount=root(1) Lft=2 DefAssoc=No
    GrpSubmitJobs=N(0) GrpWall=N(0.00)
ClusterName=c Account=rich UserName=me(1000) Partition= Priority=0 ID=8
    ParentAccount= Lft=4 DefAssoc=No
    MaxJobs= MaxJobsAccrue= MaxSubmitJobs=900(0) MaxWallPJ=

QOS Records

QOS=normal(1)
    GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs=N(90) GrpWall=N(0.00)
    Account Limits
      lab
        MaxJobsPA=N(0) MaxJobsAccruePA=N(0) MaxSubmitJobsPA=1(1)
QOS=short(2)
    GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs=40(35) GrpWall=N(0.00)
    Account Limits
        No Accounts
"""


@pytest.mark.parametrize(
    ("account", "qos", "expected"),
    [
        (
            None,
            "normal",
            {
                ("MaxSubmitJobs of user me in account lab", 50, 30),
                ("GrpSubmitJobs of account lab", 100, 88),
            },
        ),
        ("rich", "normal", {("MaxSubmitJobs of user me in account rich", 900, 0)}),
        (
            "rich",
            "short",
            {
                ("MaxSubmitJobs of user me in account rich", 900, 0),
                ("GrpSubmitJobs of QOS short", 40, 35),
            },
        ),
        ("other", "normal", set()),
    ],
)
def test_the_limits_that_apply_are_those_of_the_account_and_above(
    account: str | None, qos: str, expected: set[tuple[str, int, int]]
) -> None:
    assert set(limits.association_caps(ASSOCIATIONS, "me", account, qos)) == expected


def test_the_tightest_limit_counts(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "me")
    (fake.folder / "scontrol").write_text(
        f"#!/bin/sh\n[ $2 = config ] && cat {fake.folder}/config || cat {fake.folder}/assoc\n"
    )
    (fake.folder / "scontrol").chmod(0o755)
    (fake.folder / "config").write_text(CONFIG.format(enforce="associations,limits", more=""))
    (fake.folder / "assoc").write_text(ASSOCIATIONS)
    fake.says("squeue", "".join(f"9_{i}\n" for i in range(30)))
    fake.says("sacctmgr", "\n")
    found = limits.read()
    assert (found.max_array_size, found.room, found.known) == (501, 12, True)
    assert found.cap.name == "GrpSubmitJobs of account lab"
    fake.says("sacctmgr", "35\n")
    assert limits.read().cap == Cap("MaxSubmitJobsPerUser of QOS normal", 35, 30)
    (fake.folder / "config").write_text(CONFIG.format(enforce="none", more=",max_array_tasks=100"))
    assert limits.read() == Limits(100, Cap("MaxJobCount", 10_000, 30), known=True)
    fake.says("squeue", error="slurm_load_jobs error", code=1)
    assert limits.read() == Limits(100), "no answer is not an empty queue"
    fake.says("squeue")
    (fake.folder / "config").write_text(CONFIG.format(enforce="associations,limits", more=""))
    (fake.folder / "scontrol").write_text(
        f"#!/bin/sh\n[ $2 = config ] && cat {fake.folder}/config || exit 1\n"
    )
    assert not limits.read().known, "nor are there no limits"
