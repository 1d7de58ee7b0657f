"""Pretrained weights: fetched once where there is internet, found and checked where there is none.

The hub is a small server on this machine; client, cache and timm are the real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny

from core.config import ConfigError, registry
from core.config.registry import backbones
from core.data import inputs
from core.store.folders import Store
from sweep import cli
from sweep.inputs import pretrained

NAME = "test_resnet.r160_in1k"
REPO = f"timm/{NAME}"
COMMIT = "c0ffee" + "0" * 34
Files = dict[str, bytes]


@pytest.fixture
def served() -> Iterator[tuple[str, Files]]:
    """Address and files ('/path' -> content) of a server that speaks as the hub does."""
    files: Files = {}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            content = content or b""
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content) + self.path.startswith("/cut/")))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sweep_weights(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`sweep weights ...` in a process of its own: the hub's client reads its settings once."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "COLUMNS": "300",
            **variables,
        }
        code = "import sys; from sweep.cli import main; sys.argv[0] = 'sweep'; main()"
        command = [sys.executable, "-c", code, "weights", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100)

    return run


def config(**fields: Any) -> Any:
    return tiny.config(backbone=NAME, weights="pretrained", **fields)


def build_offline(tmp_path: Path, store: Store) -> str:
    """The first convolution of a run's model, built without internet."""
    code = (
        "import sys, tiny\nfrom pathlib import Path\nfrom core.model import network\n"
        "from core.store.folders import Store\n"
        f"run = tiny.config(backbone={NAME!r}, weights='pretrained', image_size=32)\n"
        "model = network.build(run, 10, Store(Path(sys.argv[1])))\n"
        "print(model.net.conv1[0].weight.double().sum().item())"
    )
    paths = os.pathsep.join([str(Path(tiny.__file__).parent), *sys.path])
    environ = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, str(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_fetched_once_then_used_without_internet(
    served: tuple[str, Files],
    sweep_weights: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    store: Store,
) -> None:
    import core.model.vision  # noqa: F401

    import timm  # isort: skip
    from safetensors.torch import save

    address, files = served
    source = timm.create_model("test_resnet")
    files[f"/{REPO}/resolve/main/model.safetensors"] = save(source.state_dict())
    hub = tmp_path / "hub"
    (line,) = inputs.missing([config(), config(seed=1)], store, hub=hub)
    assert line == f"weights of {NAME}: {REPO} is not in {hub}; run: sweep weights fetch {NAME}"
    assert inputs.missing([config()], store) == [], "they may be downloaded"
    assert inputs.missing([tiny.config(backbone=NAME, weights="random")], store, hub=hub) == []

    done = sweep_weights("fetch", NAME, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    files.clear()
    assert inputs.missing([config()], store, hub=hub) == []
    again = sweep_weights("fetch", NAME, HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0 and again.stdout == done.stdout, "what is here is not asked for"

    expected = source.conv1[0].weight.double().sum().item()
    assert build_offline(tmp_path, store) == str(expected)

    listed = sweep_weights("list", NAME, "vit", "--json")
    assert [bool(row["file"]) for row in json.loads(listed.stdout)] == [True, False]
    assert sweep_weights("verify", NAME).returncode == 0
    path = inputs.cached_weights(REPO, hub)
    assert path is not None
    path.resolve().write_bytes(path.read_bytes()[:-1] + b"x")
    broken = sweep_weights("verify", NAME)
    assert broken.returncode == 1 and "differs from its checksum" in broken.stdout


def test_what_the_hub_lacks(
    served: tuple[str, Files], sweep_weights: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = sweep_weights("fetch", NAME, HF_ENDPOINT=served[0])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"weights of {NAME}: {REPO} has none of model.safetensors")


@pytest.mark.parametrize("flag", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_without_internet_it_is_one_line(
    sweep_weights: Callable[..., subprocess.CompletedProcess[str]], flag: str
) -> None:
    """The client tries for half a minute unless it is told that there is none."""
    done = sweep_weights("fetch", "r50", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE=flag)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("weights of r50: cannot reach the hub (")


@pytest.mark.slow
def test_bad_names(sweep_weights: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = sweep_weights("fetch", "swim", "resnet5O")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2
    assert "unknown backbone 'swim'" in done.stderr and "resnet50" in done.stderr
    done = sweep_weights("fetch", "robust_resnet50")
    assert done.returncode == 2 and "put the file at" in done.stderr
    assert sweep_weights("fetch").returncode == 2
    assert sweep_weights("verify").returncode == 3
    assert sweep_weights("verify", "vit").returncode == 1


def test_a_grid_names_what_to_fetch(
    sweep_weights: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = sweep_weights("fetch", "--grid", "epsilon_scheduling", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and done.stderr.startswith("weights of vit: ")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def called(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["sweep", "weights", *arguments, "--root", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().out

    code, told = called("list", "--grid", "epsilon_scheduling", "--json")
    assert not code and [row["name"] for row in json.loads(told)][:2] == ["vit", "swin"]
    code, told = called("verify", "--grid", "epsilon_scheduling")
    assert code == 1 and told.startswith("vit: not here")
    assert called("list", "--grid", "smoke", "--json")[1] == "[]\n"
    assert "no run of the grid starts from pretrained" in called("fetch", "--grid", "smoke")[1]


# Local files.


@pytest.fixture
def robust(served: tuple[str, Files], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A backbone of the registry whose weights are a file on the server."""
    address, files = served
    files["/x.pth"] = files["/cut/x.pth"] = os.urandom(5000)
    entries = {
        name: registry.Backbone(
            timm="test_resnet", checkpoint=registry.Checkpoint(file=f"r/{name}.pth", url=url)
        )
        for name, url in {
            "small": f"{address}/x.pth",
            "cut": f"{address}/cut/x.pth",
            "gone": f"{address}/none.pth",
            "dead": "http://127.0.0.1:9/x.pth",
        }.items()
    }
    known = entries | backbones()
    for module in (registry, inputs, pretrained):
        monkeypatch.setattr(module, "backbones", lambda: known)
    yield address


def test_a_local_file_is_fetched_with_its_checksum(
    robust: str, served: tuple[str, Files], store: Store, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    path = pretrained.fetch("small", store, hub)
    assert path == store.weights / "r" / "small.pth"
    assert path.read_bytes() == served[1]["/x.pth"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_name("small.pth.sha256").read_text() == f"{digest}  small.pth\n"
    assert list(pretrained.verify([], store, hub)) == [("small", f"{path}: fine", True)]
    path.write_bytes(b"damaged")
    ((_, finding, fine),) = pretrained.verify(["small"], store, hub)
    assert not fine and "differs from its checksum" in finding
    path.with_name("small.pth.sha256").unlink()
    ((_, finding, fine),) = pretrained.verify(["small"], store, hub)
    assert fine and "no checksum to compare with" in finding


@pytest.mark.parametrize(
    ("name", "reason"), [("gone", "404"), ("dead", "refused"), ("cut", "interrupted")]
)
def test_a_failed_download_leaves_nothing(
    robust: str, store: Store, tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"cannot be downloaded \(.*{reason}") as error:
        pretrained.fetch(name, store, tmp_path / "hub")
    assert len(error.value.lines) == 1
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_what_cannot_be_fetched_does_not_keep_others_from_it(
    call: Callable[..., tuple[int, str, str]], store: Store
) -> None:
    """Each is a line with the way to convert the release; those that are here are told."""
    here = store.weights / "robust" / "robust_resnet50.pt"
    here.parent.mkdir(parents=True)
    here.touch()
    names = ("robust_convnext_tiny", "robust_resnet50", "robust_deit_small_patch16_224")
    code, out, err = call("weights", "fetch", *names, "--root", str(store.root))
    assert code == 2 and out == f"robust_resnet50: {here}\n"
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "weights of robust_convnext_tiny",
        "weights of robust_deit_small_patch16_224",
    ]
    assert err.count(", or run: sweep weights convert FILE --to ") == 2
