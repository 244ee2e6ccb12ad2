"""Watches through a proxy that cuts them: what happened meanwhile is seen all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.deadlines import DEADLINES_SECONDS
from e2e.waiting import wait_until
from tests.integration.conftest import Namespace, Operator, Operators


class Wire:
    """A TCP proxy whose connections can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._sockets: list[socket.socket] = []
        self._open = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def cut(self, seconds: float) -> None:
        """Break every connection, and let none through for some time."""
        self._break()
        time.sleep(seconds)
        self._open = True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends a thread that waits in accept
        self._serving.join()
        self._break()
        for each in (self._listener, *self._sockets):
            each.close()

    def _break(self) -> None:
        self._open = False
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = self._listener.accept()
                if self._open:
                    self._connect(near)
                else:
                    near.close()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        self._sockets += [near, far]
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(plane: ControlPlane) -> Iterator[Wire]:
    found = Wire((plane.place.host, plane.place.port))
    yield found
    found.close()


@pytest.fixture
def kubeconfig(plane: ControlPlane, wire: Wire, tmp_path: Path) -> Path:
    path = tmp_path / "through-the-wire.json"
    text = plane.layout.kubeconfig.read_text()
    path.write_text(text.replace(f":{plane.place.port}", f":{wire.port}"))
    return path


def probe(operator: Operator, path: str) -> tuple[int, str]:
    try:
        url = f"http://127.0.0.1:{operator.port}{path}"
        seconds = DEADLINES_SECONDS["a server answers"]
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_what_changes_while_the_wire_is_cut_is_seen_afterwards(
    namespace: Namespace, operators: Operators, kubeconfig: Path, wire: Wire
) -> None:
    operator = operators.start(kubeconfig=kubeconfig)
    namespace.train("before")
    namespace.wait_for_pods("before-train-1-0")
    cutting = threading.Thread(target=wire.cut, args=(3.0,))
    cutting.start()
    namespace.train("meanwhile")
    namespace.delete("Pod", "before-train-1-0")
    cutting.join()
    wait_until(
        namespace.pods,
        lambda found: found == ["before-train-2-0", "meanwhile-train-1-0"],
        "an attempt is closed",
    )
    assert operator.process.poll() is None


def test_an_api_server_that_is_away_is_no_reason_to_be_restarted(
    namespace: Namespace, operators: Operators, kubeconfig: Path, wire: Wire
) -> None:
    operator = operators.start(kubeconfig=kubeconfig)
    assert probe(operator, "/healthz") == (200, "ok")
    assert probe(operator, "/readyz") == (200, "ok")
    cutting = threading.Thread(target=wire.cut, args=(5.0,))
    cutting.start()
    time.sleep(3)
    assert probe(operator, "/healthz") == (200, "ok")
    cutting.join()
    namespace.train()
    wait_until(namespace.pods, bool, "a pod is gone")


def test_the_metrics_have_controller_runtimes_names(
    namespace: Namespace, operators: Operators
) -> None:
    operator = operators.start()
    namespace.train()
    wait_until(
        lambda: probe(operator, "/metrics")[1],
        lambda text: 'reconcile_total{controller="trainingjob",result="success"}' in text,
        "a condition shows",
    )
    status, text = probe(operator, "/metrics")
    assert status == 200
    for name in (
        'controller_runtime_reconcile_total{controller="trainingjob"',
        'controller_runtime_reconcile_time_seconds_bucket{controller="trainingjob"',
        'controller_runtime_max_concurrent_reconciles{controller="trainingjob"} 16.0',
        'controller_runtime_active_workers{controller="trainingjob"} 0.0',
        'workqueue_depth{name="lepton-operator"} 0.0',
        'workqueue_adds_total{name="lepton-operator"}',
        'workqueue_queue_duration_seconds_count{name="lepton-operator"}',
        'rest_client_requests_total{code="201",method="POST"}',
        'leader_election_master_status{name="lepton-operator"} 1.0',
    ):
        assert name in text
