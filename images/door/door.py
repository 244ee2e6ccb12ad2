"""The door's life: wait for certificates, serve, and leave without cutting a request."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from images.door import certificates
from images.door.admin import Admin, AdminError, Downstream
from images.door.bootstrap import admin_socket, bootstrap, secrets
from images.door.failing import Failing
from images.door.server import Server
from images.door.settings import Settings

ENVOY = "envoy"
_LOOK_SECONDS = 0.25
_CERTIFICATES_SECONDS = 1.0
_SLICES_A_SECOND = 20
"""What kube-controller-manager writes at its defaults: each service has an EndpointSlice."""
_SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a process."""

Bootstrap = Callable[[Settings, Path, str], dict[str, Any]]
_T = TypeVar("_T")


class Door:
    """One Envoy, from the first probe to its end."""

    def __init__(self, settings: Settings, configuration: Bootstrap = bootstrap) -> None:
        self._settings = settings
        self._configuration = configuration
        self._wake = threading.Event()
        self._asked_to_leave = False
        self._waits_for = ""
        # Envoy is not asked again: while it takes in the configuration of a thousand services it
        # answers late, at all doors at once, and serves all the same.
        self._was_ready = False
        self.admin: Admin | None = None
        self.failing = Failing()

    def run(self) -> int:
        """Return the code to exit with: Envoy's own, or 0 after a drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        server = Server(self._settings.port, self)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if not self._has_certificates():
            return 0
        with tempfile.TemporaryDirectory(prefix="door-") as folder:
            return self._serve(Path(folder))

    def unready(self) -> str:
        """Return a sentence on why no request should come here; empty if they are welcome."""
        if self._asked_to_leave:
            return "This door is leaving: it serves what is open, and waits for its end."
        if self._was_ready:
            return ""
        if self.admin is None:
            return self._waits_for or "Envoy is not started yet."
        if self.admin.is_live() and self.admin.listeners():
            self._was_ready = True
            return ""
        if self.admin.is_connected():
            return "The operator has not sent a listener for any service yet."
        at = f"{self._settings.xds_host}:{self._settings.xds_port}"
        return (
            f"No operator answers at {at}: either none leads, or it refuses this door's "
            "certificate (Secret lepton-door). The door goes on asking, some times a second."
        )

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_leave = True
        self._wake.set()

    def _has_certificates(self) -> bool:
        """Wait until they can be used; False if the door was asked to leave before."""
        while not self._asked_to_leave:
            problem = certificates.problem(self._settings.certificates)
            if not problem:
                return True
            if problem != self._waits_for:
                _say(problem)
            self._waits_for = problem
            self._wake.wait(_CERTIFICATES_SECONDS)
        return False

    def _serve(self, folder: Path) -> int:
        envoy = self._start(folder)
        self.admin = Admin(admin_socket(folder))
        threading.Thread(target=self._watch, args=(envoy,), daemon=True).start()
        threading.Thread(target=self.failing.read, args=(envoy.stdout or (),), daemon=True).start()
        threading.Thread(target=self.failing.watch, args=(self.admin,), daemon=True).start()
        # The kernel may hand a signal to a thread that is being started for a probe, while Python
        # runs the handler in this one, which sleeps on: without looking it would never leave.
        while not self._wake.wait(_LOOK_SECONDS):
            continue
        if self._asked_to_leave:
            self._drain(envoy, self.admin)
            envoy.terminate()
        code = envoy.wait()
        if not self._asked_to_leave:
            _say(f"Envoy ended by itself, with code {code}; its own words stand above.")
        return code if code >= 0 else _SIGNALLED - code

    def _start(self, folder: Path) -> subprocess.Popen[str]:
        file = folder / "bootstrap.json"
        file.write_text(
            json.dumps(self._configuration(self._settings, folder, socket.gethostname()))
        )
        for path, content in secrets(self._settings, folder).items():
            path.write_text(json.dumps(content))
        return subprocess.Popen(
            _argv(self._settings, file), stdout=subprocess.PIPE, text=True, errors="replace"
        )

    def _watch(self, envoy: subprocess.Popen[str]) -> None:
        envoy.wait()
        self._wake.set()

    def _drain(self, envoy: subprocess.Popen[str], admin: Admin) -> None:
        """Let new connections go elsewhere, then the open ones end, until the deadline."""
        deadline = time.monotonic() + self._settings.drain_timeout_seconds
        _say(f"Asked to leave: open requests have {self._settings.drain_timeout_seconds:.0f} s.")
        try:
            unheard_seconds = _answer(partial(self._unheard_seconds, admin), envoy, deadline)
            time.sleep(max(0.0, min(unheard_seconds, deadline - time.monotonic())))
            _answer(admin.drain, envoy, deadline)
            idle = partial(_wait_until_idle, admin, self._settings.quiet_seconds, deadline)
            left = _answer(idle, envoy, deadline)
        except AdminError as error:
            if envoy.poll() is None:
                _say(f"{error} It is ended as it is.")
            return
        if left.requests:
            _say(f"The time is over: {left.requests} requests are cut.")
        else:
            _say(f"No request is open any more, {left.connections} idle connections are closed.")

    def _unheard_seconds(self, admin: Admin) -> float:
        """Return how long new connections still come, since not all have heard that this ends."""
        return self._settings.endpoints_seconds + admin.listeners() / _SLICES_A_SECOND


def _answer(ask: Callable[[], _T], envoy: subprocess.Popen[str], deadline: float) -> _T:
    """Ask Envoy again while it is too busy to answer: it serves all the same."""
    while True:
        try:
            return ask()
        except AdminError:
            if envoy.poll() is not None or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_SECONDS)


def _wait_until_idle(admin: Admin, quiet_seconds: float, deadline: float) -> Downstream:
    """Return what is left once no client uses the door any more, or at the deadline."""
    quiet_since = time.monotonic()
    while True:
        now, left = time.monotonic(), admin.downstream()
        if left.requests:
            quiet_since = now
        if left.connections == 0 or now - quiet_since >= quiet_seconds or now >= deadline:
            return left
        time.sleep(_LOOK_SECONDS)


def _argv(settings: Settings, file: Path) -> list[str]:
    """Return Envoy's command line.

    A drain tells every client at once, and closes nothing before this door's own deadline.
    """
    return [
        ENVOY,
        *("--config-path", str(file)),
        *("--concurrency", str(settings.threads)),
        *("--drain-strategy", "immediate"),
        *("--drain-time-s", f"{settings.drain_timeout_seconds:.0f}"),
        *("--log-level", "warning"),
        # A line at each attempt to reach an operator that is away, ten a second. What Envoy
        # refuses of its configuration the operator is told, and logs.
        *("--component-log-level", "config:error"),
        # What it writes of requests that failed; its own default is 10 s.
        *("--file-flush-interval-msec", "1000"),
        "--disable-hot-restart",
        # The stats access logger of every service would warn of a field whose successor the
        # operator's protos don't have yet.
        "--skip-deprecated-logs",
    ]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
