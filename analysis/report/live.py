"""The report as a page that follows its sweep, served to this machine only.

The page is the one that `write` makes; its script asks this server for changes. The server writes
nothing except the index and does not affect the runs, so it can be stopped at any time.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

LOOK_SHARE, BUILD_SHARE = 0.03, 0.01
"""Shares of a core that looking at runs, and rebuilding the tables, may take."""
EVERY_S = 3.0
"""Minimum seconds between two looks at the runs."""
UNWATCHED_S = 60.0
"""Seconds without a request after which the server stops looking."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Told = Mapping[str, Sequence[Any]]
"""Run id -> [state, progress, reason], plain data."""


class Now(NamedTuple):
    """The present state of a sweep. lines: counts, hours spent and left. ended: a value that
    changes when the tables do."""

    runs: Told
    lines: Sequence[str]
    ended: object


@dataclass
class Live:
    """The server's answers. look: the state of the sweep. core: JSON of the page's tables. page:
    the whole page. run: run id -> JSON of its details, None if there is no such run."""

    look: Callable[[], Now]
    core: Callable[[], str]
    page: Callable[[], str]
    run: Callable[[str], str | None]
    _now: Now = field(default_factory=lambda: Now({}, (), None))
    _changed: dict[str, int] = field(default_factory=dict)
    _looks: int = 0
    _tables: str = ""
    _version: int = 0
    _page: tuple[object, str] | None = None
    _asked: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Look once and build the page, so that the first request need not wait."""
        self._take(self.look())
        self._whole()

    def follow(self) -> None:
        """Look repeatedly until `stop`, within the shares of a core; rebuild tables that have
        changed."""
        pause, build_at, of = EVERY_S, 0.0, self._now.ended
        while not self._stop.wait(pause):
            pause = EVERY_S
            if time.monotonic() - self._asked > UNWATCHED_S:
                continue
            begun = time.thread_time()
            self._take(self.look())
            pause = max(EVERY_S, (time.thread_time() - begun) / LOOK_SHARE)
            if self._now.ended != of and time.monotonic() > build_at:
                of, begun = self._now.ended, time.thread_time()
                self._tables, self._version = self.core(), self._version + 1
                build_at = time.monotonic() + (time.thread_time() - begun) / BUILD_SHARE

    def _take(self, now: Now) -> None:
        self._looks += 1
        for name, told in now.runs.items():
            if self._now.runs.get(name) != told:
                self._changed[name] = self._looks
        self._now = now

    def stop(self) -> None:
        self._stop.set()

    def answer(self, path: str, query: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
        """(content type, text) for a path below the token; None for an unknown path."""
        self._asked = time.monotonic()
        match path.split("/"):
            case [""]:
                return "text/html", self._whole()
            case ["state"]:
                since = query.get("since", ["0"])[0]
                return "application/json", self._state(int(since) if since.isdecimal() else 0)
            case ["core"]:
                return "application/json", self._tables or self.core()
            case ["run", name]:
                found = self.run(name)
                return None if found is None else ("application/json", found)
            case _:
                return None

    def _whole(self) -> str:
        """The page, rebuilt only if the tables have changed, as that takes seconds."""
        ended, kept = self._now.ended, self._page
        if kept is None or kept[0] != ended:
            kept = self._page = (ended, self.page())
        return kept[1]

    def _state(self, since: int) -> str:
        """JSON of what has changed after look number `since`."""
        looks, now = self._looks, self._now
        changed = [name for name, at in list(self._changed.items()) if at > since]
        return json.dumps(
            {
                "looks": looks,
                "version": self._version,
                "lines": list(now.lines),
                "runs": {name: now.runs[name] for name in changed if name in now.runs},
            }
        )


def server(live: Live, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """(server on 127.0.0.1, its address). The address contains a random token, as other users of
    this machine can reach the port, too. port: 0 takes a free one. Raises OSError."""
    token = secrets.token_urlsafe(16)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            _, given, *rest = address.path.split("/", 2)
            answer = None
            if rest and hmac.compare_digest(given.encode(), token.encode()):
                answer = live.answer(rest[0], parse_qs(address.query))
            if answer is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, text = answer
            content = text.encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: the lines would show the token."""

    made = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    made.daemon_threads = True
    return made, f"http://127.0.0.1:{made.server_address[1]}/{token}/"
