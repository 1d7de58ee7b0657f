"""Profiles: everything wrong is said before anything is submitted, and submitit takes the rest."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import submitit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from submitit.auto.auto import AutoExecutor
from submitit.slurm.slurm import SlurmExecutor

from core.errors import ConfigError
from slurm.parameters import Slurm
from slurm.profile import Profile, names, read_profile

SLURM = "executor: slurm\nslurm: {timeout_min: 60}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_profile(write(folder, text))
    return str(caught.value).splitlines()


def script(mine: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The batch script submitit makes of a profile; needs something called srun, not Slurm."""
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
    executor = submitit.AutoExecutor(folder, **mine.executor_options())
    executor.update_parameters(**mine.slurm_parameters())
    inner: Any = executor._executor
    return str(inner._make_submission_file_text(inner._submitit_command_str, "uid"))


def test_all_that_are_shipped_load_and_say_what_they_are() -> None:
    assert names() == ["alliance", "debug", "gpu", "local", "testbed"]
    for name in names():
        mine = read_profile(name)
        assert mine.name == name
        assert mine.about != "no description"


@pytest.mark.parametrize("name", ["alliance", "gpu", "testbed"])
def test_submitit_accepts_every_parameter_shipped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = read_profile(name)
    text = script(mine, tmp_path, monkeypatch)
    assert f"#SBATCH --time={mine.slurm.timeout_min}\n" in text
    assert "#SBATCH --requeue\n" in text
    assert f"#SBATCH --signal=USR2@{mine.slurm.slurm_signal_delay_s}\n" in text


def test_a_typed_gpu_and_the_environment_reach_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = script(read_profile("alliance"), tmp_path, monkeypatch)
    assert "#SBATCH --gpus-per-node=h100:1\n" in text
    assert "export HF_HUB_OFFLINE=1\n" in text
    assert text.index("export HF_HOME") < text.index("module load") < text.index("srun ")


def test_the_names_are_those_of_submitit() -> None:
    generic = AutoExecutor._valid_parameters()
    special = {f"slurm_{name}" for name in SlurmExecutor._valid_parameters()}
    ours = set(Slurm.model_fields)
    assert ours <= generic | special | {"slurm_gpus_per_node"}
    sbatch_names = {f"slurm_{n}" for n in SlurmExecutor._equivalence_dict().values()}
    launchers = {"name", "slurm_dependency", "slurm_num_gpus", "slurm_stderr_to_stdout"}
    assert (generic | special) - ours == launchers | (sbatch_names & special) - ours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("executer: local\nexecutor: local", ":1: executer: unknown key, did you mean 'executor'?"),
        (
            "executor: slrum",
            ":1: executor: expected one of local, debug, slurm, ray, got 'slrum', did",
        ),
        ("about: x", "executor: required (local, debug, slurm, ray, or a plug-in of submitit)"),
        (SLURM + "runs_per_job: many", ":3: runs_per_job: expected a whole number, got 'many'"),
        (SLURM + "runs_per_job: 0", ":3: runs_per_job: got 0: Input should be greater than"),
        (SLURM + "runs_per_job: true", ":3: runs_per_job: expected a whole number, got True"),
        (SLURM + "staging: 1", ":3: staging: expected true or false, got 1"),
        (SLURM + "heartbeat_s: soon", ":3: heartbeat_s: expected a number of seconds, got 'soon'"),
        (SLURM + "heartbeat_s: .nan", ":3: heartbeat_s: expected a number of seconds, got '.nan'"),
        (SLURM + "mem_gb: 3", ":3: mem_gb: unknown key: 'mem_gb' belongs under `slurm:`"),
        (SLURM + "env: [A]", ":3: env: expected a mapping, got ['A']"),
        (SLURM + "env: {A: true}", ":3: env.A: expected a whole number or text, got True"),
        (SLURM + "env: {9A: x}", ":3: env.9A: is not the name of an environment variable"),
        (
            SLURM + "overrides:\n  vit: {mem_gp: 1}",
            ":4: overrides.vit.mem_gp: unknown key, did you",
        ),
        (SLURM + "heartbeat_s: 30\nstale_s: 60", ":4: stale_s: must be at least 3 x heartbeat_s"),
        (SLURM + "workers: 3", ":3: workers: only for executor 'local'"),
        ("executor: local\nslurm: {nodes: 1}", ":2: slurm: only for executor 'slurm'"),
        ("executor: local\nstale_s: 900", ":2: stale_s: only for executor 'slurm'"),
        ("executor: slurm", "slurm.timeout_min: required"),
        (SLURM + "gpus_per_run: 2\npacking: parallel", ":4: packing: 'parallel' puts several runs"),
        ("executor: local\nexecutor: debug", ":2: executor: given twice, first on line 1"),
        ("executor: [local", "mine.yaml:1: not valid YAML"),
        ("a: &x [*x]", ":1: a.0: aliases (*) are not accepted"),
        ("a: 2024-99-99", ":1: a: unknown key"),
        ("", "mine.yaml: expected `key: value` lines, got None"),
        ("- local", "mine.yaml: expected `key: value` lines"),
        ("executor: local\n1: x", ":2: 1: a key must be text, put quotes around it"),
    ],
)
def test_each_fault_is_one_line_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    lines = faults(tmp_path, text)
    assert any(expected in line and "mine.yaml" in line for line in lines), lines


@pytest.mark.parametrize(
    ("slurm", "expected"),
    [
        ("timeout_min: 12h", "slurm.timeout_min: expected a whole number of minutes, got '12h'"),
        ("timeout_min: 1, slurm_signal_delay_s: 60", "slurm_signal_delay_s: 60 s before the end"),
        ("timeout_min: 60, slurm_setup: module load x", "slurm_setup: expected a list"),
        ("timeout_min: 60, slurm_partition: ''", "slurm_partition: got ''"),
        ('timeout_min: 60, slurm_partition: "a\\nrm -r x"', "slurm_partition: must be one line"),
        ('timeout_min: 60, slurm_setup: ["a\\nb"]', "slurm_setup.0: must be one line"),
        ("timeout_min: 60, slurm_exclusive: false", "slurm_exclusive: expected text, got False"),
        ("timeout_min: 60, slurm_use_srun: false, slurm_teardown: [x]", "slurm_use_srun: false"),
        ("timeout_min: 60, gpus_per_node: 2", "gpus_per_node: '2' disagrees with gpus_per_run: 1"),
        ("timeout_min: 60, slurm_gres: 'gpu:a100:2,disk:1'", "'gpu:a100:2,disk:1' disagrees"),
        ("timeout_min: 60, slurm_gpus_per_node: '3090:2'", "'3090:2' disagrees"),
        ("timeout_min: 60, gpus_per_node: 1, slurm_gres: 'gpu:1'", "requested twice"),
        ("timeout_min: 60, nodes: 2", "slurm.nodes: 2 nodes cannot share 1 processes"),
        ("timeout_min: 60, tasks_per_node: 3", "tasks_per_node: gpus_per_run makes it 1"),
        ("timeout_min: 60, slurm_additional_parameters: {time: 5}", ".time: use timeout_min"),
        ("timeout_min: 60, slurm_additional_parameters: {job_name: x}", "set by the launcher"),
        ("timeout_min: 60, slurm_additional_parameters: {export: 'HF_TOKEN=x'}", "like a secret"),
        ("timeout_min: 60, slurm_additional_parameters: {hold: false}", "expected a whole number"),
    ],
)
def test_slurm_parameters_are_checked_too(tmp_path: Path, slurm: str, expected: str) -> None:
    lines = faults(tmp_path, f"executor: slurm\nslurm: {{{slurm}}}\n")
    assert any(expected in line and line.startswith(f"{tmp_path}/mine.yaml:2: ") for line in lines)


def test_all_faults_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "executor: slurm\nslurm:\n  timeout_min: x\n  mem_gbb: 1\nstaging: maybe\nenvy: {}\n"
    lines = faults(tmp_path, text)
    assert [line.split(":")[1] for line in lines] == ["3", "4", "5", "6"]
    assert "valid: timeout_min, mem_gb, nodes" in lines[1]


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET", "DB_PASSWORD", "GITHUB_PAT", "PGPASSWORD"),
        *("AWS_ACCESS_KEY_ID", "MYSQL_PWD", "wandb_key", "APITOKEN2"),
    ],
)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    for text in (f"env: {{{name}: s3cret}}", f"slurm_setup: ['export {name}=s3cret']"):
        whole = SLURM + text if "env" in text else f"executor: slurm\nslurm: {{{text}}}"
        lines = faults(tmp_path, whole)
        assert any("wandb login" in line for line in lines)
        assert "s3cret" not in "\n".join(lines)


HEX = "0123456789abcdef0123456789abcdef01234567"
SECRETS = [
    *(HEX, f"local-{HEX}", "hf_" + 34 * "a", "ghp_" + 36 * "b", "github_pat_" + 40 * "c"),
    *("AKIAIOSFODNN7EXAMPLE", "sk-" + 30 * "d", "https://me:s3cret@host/x.git"),
]


@pytest.mark.parametrize("value", SECRETS)
@pytest.mark.parametrize(
    "text",
    [
        "env: {MINE: 'VALUE'}",
        "env: {MINE: a VALUE}",
        "about: see VALUE",
        "env: {}  # VALUE",
        "slurm_comment: 'VALUE'",
        "slurm_setup: ['echo VALUE']",
        "slurm_srun_args: ['--comment=VALUE']",
        "slurm_additional_parameters: {admin-comment: 'VALUE'}",
        'slurm_setup: ["ESCAPED"]',
    ],
)
def test_secrets_are_known_by_their_shape(tmp_path: Path, value: str, text: str) -> None:
    text = text.replace("VALUE", value)
    text = text.replace("ESCAPED", "".join(f"\\x{ord(c):02x}" for c in value))
    whole = f"executor: slurm\nslurm: {{timeout_min: 60, {text}}}"
    if not text.startswith("slurm"):
        whole = SLURM + text
    (line,) = faults(tmp_path, whole)
    assert "looks like a secret" in line and f"mine.yaml:{whole.count(chr(10)) + 1}: " in line
    assert value not in line and "s3cret" not in line


@pytest.mark.parametrize(
    ("command", "secret"),
    [
        (f"wandb login {HEX}", True),
        ("wandb login --relogin s3cret", True),
        ("wandb login --host https://w.example s3cret", True),
        ("export HF_TOKEN=s3cret", True),
        ("HF_TOKEN='s3cret' python x.py", True),
        ("huggingface-cli login --token s3cret", True),
        ("hf auth login --token=s3cret", True),
        ("docker login -u me --password s3cret", True),
        ("curl -H 'Authorization: Bearer s3cret' x", True),
        ("curl -u me:s3cret https://x", True),
        ("aws configure set aws_secret_access_key s3cret", True),
        ("echo machine api.wandb.ai login user password s3cret >> ~/.netrc", True),
        ("wandb login", False),
        ("wandb login --relogin", False),
        ("wandb login $WANDB_API_KEY", False),
        ("wandb login || true", False),
        ("export HF_TOKEN=$(cat ~/.token)", False),
        ('export HF_TOKEN="$MINE"', False),
        ("hf auth login --token $HF_TOKEN", False),
        (f"git checkout {HEX}", False),
        (f"cp -r ~/.cache/hub/models--x/snapshots/{HEX}/ $SLURM_TMPDIR", False),
        ("module load python/3.11 && source ~/env/bin/activate", False),
        ("export TOKENIZERS_PARALLELISM=false NCCL_IB_PKEY=2", False),
    ],
)
def test_commands_hand_no_secret_on(tmp_path: Path, command: str, secret: bool) -> None:
    text = (
        f"executor: slurm\nslurm:\n  timeout_min: 60\n  slurm_setup:\n    - |-\n      {command}\n"
    )
    if not secret:
        assert read_profile(write(tmp_path, text)).slurm.slurm_setup == (command,)
        return
    (line,) = faults(tmp_path, text)
    assert "looks like a secret" in line and "s3cret" not in line and HEX not in line


def test_names_that_only_sound_secret_are_fine(tmp_path: Path) -> None:
    text = SLURM + "env: {TOKENIZERS_PARALLELISM: 'false', HF_TOKEN_PATH: /x, NCCL_IB_PKEY_X: 1}"
    assert len(read_profile(write(tmp_path, text)).env) == 3


def test_what_is_no_profile_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no profile 'alianc', did you mean 'alliance'"):
        read_profile("alianc")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        read_profile(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"about: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text"):
        read_profile(tmp_path / "latin.yaml")


def test_an_override_touches_its_backbone_alone(tmp_path: Path) -> None:
    text = (
        "executor: slurm\nslurm: {timeout_min: 60, mem_gb: 32}\nruns_per_job: 4\n"
        "overrides:\n  vit: {mem_gb: 96, runs_per_job: 1, gpus_per_run: 2}\n"
    )
    mine = read_profile(write(tmp_path, text))
    vit, swin = mine.for_backbone("vit"), mine.for_backbone("swin")
    assert (vit.slurm.mem_gb, vit.runs_per_job, vit.ranks) == (96, 1, 2)
    assert (swin.slurm.mem_gb, swin.runs_per_job, swin.ranks) == (32, 4, 1)
    assert vit.slurm.timeout_min == swin.slurm.timeout_min == 60
    assert vit.slurm_parameters()["tasks_per_node"] == vit.slurm_parameters()["gpus_per_node"] == 2


def test_an_override_that_contradicts_the_rest_is_a_fault(tmp_path: Path) -> None:
    text = "executor: slurm\nslurm: {timeout_min: 60, gpus_per_node: 1}\n"
    lines = faults(tmp_path, text + "overrides:\n  vit: {gpus_per_run: 2}\n")
    assert lines == [
        f"{tmp_path}/mine.yaml:4: overrides.vit: slurm.gpus_per_node: "
        "'1' disagrees with gpus_per_run: 2"
    ]


def test_a_profile_cannot_be_changed() -> None:
    mine = read_profile("local")
    with pytest.raises(ValidationError):
        mine.workers = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SLURM, {"tasks_per_node": 1, "gpus_per_node": 1}),
        (SLURM + "gpus_per_run: 0", {"tasks_per_node": 1, "gpus_per_node": None}),
        (SLURM + "gpus_per_run: 4", {"tasks_per_node": 4, "gpus_per_node": 4}),
        (
            "executor: slurm\nslurm: {timeout_min: 60, nodes: 2}\ngpus_per_run: 4",
            {"tasks_per_node": 2, "gpus_per_node": 2, "nodes": 2},
        ),
        (
            "executor: slurm\nslurm: {timeout_min: 60, slurm_gres: 'gpu:a100:2'}\ngpus_per_run: 2",
            {"tasks_per_node": 2, "gpus_per_node": None, "slurm_gres": "gpu:a100:2"},
        ),
    ],
)
def test_tasks_and_gpus_follow_from_gpus_per_run(
    tmp_path: Path, text: str, expected: dict[str, Any]
) -> None:
    given = read_profile(write(tmp_path, text)).slurm_parameters()
    assert {name: given.get(name) for name in expected} == expected


def test_whether_slurm_may_requeue_is_said_outright(tmp_path: Path) -> None:
    never = read_profile(write(tmp_path, SLURM + "max_requeues: 0"))
    assert never.slurm_parameters()["slurm_additional_parameters"] == {"no-requeue": True}
    often = read_profile(write(tmp_path, SLURM + "max_requeues: 7"))
    assert often.slurm_parameters()["slurm_additional_parameters"] == {"requeue": True}
    assert often.executor_options()["slurm_max_num_timeout"] == 7


def test_without_srun_python_replaces_the_batch_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "executor: slurm\nslurm: {timeout_min: 60, slurm_use_srun: false}\n"
    made = script(read_profile(write(tmp_path, text)), tmp_path, monkeypatch)
    assert "#SBATCH --signal=B:USR2@90\n" in made
    assert "\nexec " in made


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0$"), max_size=12))
def test_bash_and_python_agree_on_every_value_of_the_environment(tail: str) -> None:
    outer = {"BASE": "/a b", "PATH": "/usr/bin:/bin"}
    for value in (tail, f"$BASE/{tail}", f"${{BASE}}{tail}", f"'{tail}`id` $(id) \\$BASE"):
        mine = Profile(name="x", executor="local", env={"X": value})
        line = f'{mine.exports()[0]}; printf %s "$X"'
        bash = subprocess.run(["bash", "-c", line], env=outer, capture_output=True, check=True)
        assert bash.stdout.decode() == mine.environ(outer)["X"]


def test_a_variable_that_is_not_set_stops_the_job() -> None:
    mine = Profile(name="x", executor="local", env={"X": "$NOT_SET/hub"})
    line = f"{mine.exports()[0]}; echo went on"
    bash = subprocess.run(["bash", "-c", line], env={}, capture_output=True, text=True)
    assert bash.returncode != 0
    assert "went on" not in bash.stdout
    with pytest.raises(ConfigError, match=r"profile x: env: \$NOT_SET is not set"):
        mine.environ({})
