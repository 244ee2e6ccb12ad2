"""Requests while a new version is rolled out, and while a serving pod is deleted.

Each request is a connection of its own; kept connections come with the door.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.installed import FIXTURE, Bench, installed, last_line
from e2e.clients import Told, serving_clients
from e2e.jobs import model, service
from e2e.models import upload_digits
from e2e.test_serving import serves

REPLICAS = 2


def new_version(bench: Bench) -> None:
    """Give the model a second version, and wait until it is served everywhere."""
    bench.kubectl.apply(model(FIXTURE, source=upload_digits(bench.kubectl, seed=1)))
    serves(bench.kubectl, FIXTURE, version=2)


def pod_deleted(bench: Bench) -> None:
    """Delete a serving pod, and wait until another has taken its place."""
    pods = bench.kubectl.list("pods", f"lepton.ai/role=serve,lepton.ai/name={FIXTURE}")
    bench.kubectl.delete("pod", pods[0]["metadata"]["name"])
    serves(bench.kubectl, FIXTURE, version=2)


def told_during(bench: Bench, change: Callable[[Bench], None]) -> Told:
    with serving_clients(bench.kubectl, FIXTURE) as clients:
        clients.start()
        change(bench)
        return clients.stop()


def main() -> int:
    with installed() as bench:
        bench.kubectl.apply(bench.accepted_model(), service(FIXTURE, replicas=REPLICAS))
        serves(bench.kubectl, FIXTURE, version=1)
        told = {
            change.__name__: told_during(bench, change) for change in (new_version, pod_deleted)
        }
    print(f"\n{'':<14}{'requests':>10}{'failed':>8}{'worst ms':>10}   ({REPLICAS} replicas)")
    for name, each in told.items():
        print(f"{name:<14}{each.requests:>10}{each.failed:>8}{each.worst_ms:>10}")
        print("".join(f"  {failure}\n" for failure in each.failures[:5]), end="")
    last_line(
        {
            name: {"requests": each.requests, "failed": each.failed, "worst_ms": each.worst_ms}
            for name, each in told.items()
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
