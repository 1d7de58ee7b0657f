"""Uploading offline W&B runs with wandb's own segments and client, to a stand-in of the service."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny

from core.config import RunConfig
from core.store.claims import Claim
from core.store.folders import Store
from core.store.tracking import Tracker
from sweep import upload
from sweep.grid.expansion import Run

PROJECT = {"id": "UHJv", "name": "p", "entity": {"id": "RW50", "name": "me"}}


class Service:
    """As much of W&B's server as an upload needs: what it was sent, by run, and its mood."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.refuses: str | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # W&B's client may wait long when a connection is closed

            def do_GET(self) -> None:
                self.answer({})

            def do_PUT(self) -> None:
                self.body()
                self.answer({})

            def do_POST(self) -> None:
                body = self.body()
                if self.path.endswith("/file_stream"):
                    service.stream(self.path.split("/")[-2], json.loads(body).get("files", {}))
                    self.answer({})
                elif self.path.endswith("/graphql"):
                    self.answer(*service.graphql(json.loads(body)))
                else:
                    self.answer({})

            def body(self) -> bytes:
                sent = self.rfile.read(int(self.headers["content-length"]))
                return gzip.decompress(sent) if self.headers["content-encoding"] else sent

            def answer(self, value: dict[str, Any], code: int = 200) -> None:
                text = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def graphql(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        name, variables = asked["variables"].get("name"), asked["variables"]
        if self.refuses and self.refuses == name:
            return {"errors": [{"message": "permission denied"}]}, 403
        if "upsertBucket" in asked["query"]:
            bucket = {"id": "Un", "name": name, "displayName": name, "config": "{}"}
            found = {"bucket": bucket | {"historyLineCount": 0, "project": PROJECT}}
            return {"data": {"upsertBucket": found | {"inserted": True}}}, 200
        if "createRunFiles" in asked["query"]:
            files = [
                {"name": file, "uploadUrl": f"{self.url}/put/{file}"} for file in variables["files"]
            ]
            made = {"runID": "Un", "uploadHeaders": [], "files": files}
            return {"data": {"createRunFiles": made}}, 200
        if "RunResumeStatus" in asked["query"]:
            return {"data": {"model": PROJECT | {"bucket": self.resumable(name)}}}, 200
        viewer = {
            "id": "V",
            "entity": "me",
            "username": "me",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"data": {"viewer": viewer, "serverInfo": {"features": []}}}, 200

    def resumable(self, name: str) -> dict[str, Any] | None:
        """What W&B tells of a run it has, to whoever wants to go on with it."""
        rows = self.history.get(name)
        if not rows:
            return None
        tail = json.dumps([json.dumps(rows[-1])])
        counts = {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
        texts = {"summaryMetrics": "{}", "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        tails = {"historyTail": tail, "eventsTail": "[]"}
        return {"id": "Un", "name": name, "displayName": name, **counts, **texts, **tails}

    def stream(self, run: str, files: dict[str, Any]) -> None:
        """Lines of the history replace those from their offset on, as at W&B."""
        sent = files.get("wandb-history.jsonl")
        if sent:
            rows = self.history.setdefault(run, [])
            rows[sent["offset"] :] = map(json.loads, sent["content"])


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", made.url)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def row(epoch: int) -> Any:
    """One epoch; its number is in the curve too."""
    measured = {"val_loss": 1.0, "val_clean_correct": epoch, "val_clean_images": 100}
    attacked = {"val_adv_correct": 0, "val_adv_images": 100, "train_clean_correct": -1}
    train = {"epsilon": 0.0, "lr": 1e-3, "train_loss": 1.0, "train_images": 1, "images_per_s": 1.0}
    return {"epoch": epoch, **measured, **attacked, **train}


def segment(config: RunConfig, store: Store, epochs: int) -> None:
    """What an attempt that reached `epochs` leaves behind."""
    run = store.run(config.id)
    said: list[str] = []
    tracker = Tracker.start(config, run, mode="offline", group="g", on_failure=said.append)
    tracker.log([row(epoch) for epoch in range(epochs)])
    tracker.finish()
    assert not said


def runs(count: int) -> list[Run]:
    return [Run(tiny.config(seed=seed), "fix", ()) for seed in range(count)]


def steps(service: Service, run: Run) -> list[tuple[int, int]]:
    """(step, epoch) of every line that W&B has of a run."""
    return [(line["_step"], line["epoch"]) for line in service.history[run.id]]


def test_a_run_in_segments_is_uploaded_once_and_in_order(service: Service, store: Store) -> None:
    """Also where its beginning was uploaded before the run went on."""
    (run,) = runs(1)
    segment(run.config, store, 2)
    (first,) = upload.segments([run], store)
    assert list(upload.upload_segments([first])) == [(first, None)]
    assert steps(service, run) == [(0, 0), (1, 1)]
    assert upload.segments([run], store) == []
    segment(run.config, store, 3)
    segment(run.config, store, 5)
    (newest,) = upload.segments([run], store)
    assert list(upload.upload_segments([newest])) == [(newest, None)]
    assert steps(service, run) == [(epoch, epoch) for epoch in range(5)]
    assert upload.segments([run], store) == []


def test_what_failed_is_one_line_and_stays_to_be_uploaded(service: Service, store: Store) -> None:
    many = runs(3)
    for run in many:
        segment(run.config, store, 2)
    service.refuses = many[1].id
    folders = upload.segments(many, store)
    told = dict(upload.upload_segments(folders))
    assert [told[folder] is None for folder in folders] == [True, False, True]
    reason = told[folders[1]]
    assert reason and "\n" not in reason
    assert upload.segments(many, store) == [folders[1]], "only what is up is marked"
    service.refuses = None
    assert list(upload.upload_segments(upload.segments(many, store))) == [(folders[1], None)]
    assert steps(service, many[1]) == [(0, 0), (1, 1)]


def test_no_network_ends_at_once_for_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr(upload, "PATIENCE_S", 4.0)
    monkeypatch.setattr(upload, "AT_ONCE", 1)
    many = runs(3)
    for run in many:
        segment(run.config, store, 1)
    reasons = [reason for _, reason in upload.upload_segments(upload.segments(many, store))]
    assert reasons[0] == "W&B did not answer in 4 s"
    assert set(reasons[1:]) == {"not tried: W&B does not answer"}
    assert len(upload.segments(many, store)) == 3


def test_a_run_at_work_is_left_alone(store: Store, tmp_path: Path) -> None:
    (run,) = runs(1)
    segment(run.config, store, 1)
    claim = Claim.acquire(store.run(run.id))
    assert claim
    assert upload.segments([run], store) == []
    claim.release("done")
    assert len(upload.segments([run], store)) == 1


def test_the_last_segment_is_that_of_the_last_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one with the latest name: the second attempt may run in another time zone."""
    (run,) = runs(1)
    folder = store.run(run.id)
    names = []
    for zone, epochs in (("Pacific/Kiritimati", 2), ("Pacific/Honolulu", 5)):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        claim = Claim.acquire(folder)
        assert claim
        segment(run.config, store, epochs)
        claim.release("done")
        names.append(max(folder.tracking.glob("offline-run-*"), key=lambda p: p.stat().st_mtime_ns))
    monkeypatch.delenv("TZ")
    time.tzset()
    first, second = names
    assert first.name > second.name
    for file in second.glob("*.wandb"):
        os.utime(file, (0, 0))  # a copied store
    assert upload.segments([run], store) == [second]
    (first / f"run-{run.id}.wandb.synced").touch()
    assert upload.segments([run], store) == [second], "an upload of another one does not count"


def test_segments_without_an_attempt_are_ordered_by_their_last_change(store: Store) -> None:
    (run,) = runs(1)
    for day, seconds in (("20240102", 1_000), ("20240101", 2_000)):
        older = store.run(run.id).tracking / f"offline-run-{day}_000000-{run.id}"
        older.mkdir(parents=True)
        (older / f"run-{run.id}.wandb").touch()
        os.utime(older / f"run-{run.id}.wandb", (seconds, seconds))
    (found,) = upload.segments([run], store)
    assert "20240101" in found.name


LOG_IN = """
from core.config import ConfigError
from sweep import upload
try:
    upload.check_login()
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("key", "told"),
    [("", "nobody is logged in; run `wandb login`"), ("short", "its credentials cannot be used")],
)
def test_without_a_login_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, told: str
) -> None:
    """In its own process: W&B remembers who was logged in."""
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", LOG_IN], capture_output=True, text=True)
    assert done.stdout.startswith(f"W&B: {told}") and done.stdout.count("\n") == 1
    assert not done.stderr
