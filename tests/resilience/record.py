"""Records how pods end, from real ones: `python -m tests.resilience.record [--name record]`.

Starts an embedded cluster, installs the chart, plays the scenarios with real images, and writes
what the kubelet wrote about the containers that ended into tests/resilience/recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import ssl
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from e2e import installation
from e2e.cluster import down
from e2e.jobs import model, training_job
from e2e.kubectl import Kubectl
from e2e.models import upload_digits
from e2e.waiting import is_ready, is_true, wait_until
from tests.resilience.history import Body, History
from tests.resilience.pods import CONTAINERS, RECORDED

# A plain script under torchrun: rank 1 raises in the first attempt.
GANG = """
import json, os, pathlib
import torch.distributed as dist
dist.init_process_group("gloo")
first = json.loads(pathlib.Path("/etc/lepton/attempt").read_text())["attempt"] == 1
if first and os.environ["RANK"] == "1":
    raise RuntimeError("the loss is not a number")
dist.barrier()
dist.destroy_process_group()
"""
GATE = {"thresholds": [{"metric": "accuracy", "minimum": "0.80"}]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Record every scenario; the cluster is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="record", help="the embedded cluster that is started")
    name = parser.parse_args(arguments).name
    at = installation.target(name, nodes=1)
    try:
        installation.install(at)
        kubectl = installation.kubectl(at)
        asyncio.run(_record(kubectl))
    finally:
        down(name)


async def _record(kubectl: Kubectl) -> None:
    server, trust = _access(kubectl.kubeconfig)
    history = History(server, trust)
    await history.start()
    try:
        for scenario in (_gang_restart, _train_evaluate_serve, _new_version):
            namespace = kubectl.within(f"record-{scenario.__name__.strip('_').replace('_', '-')}")
            world = history.world(namespace.namespace)
            installation.make_namespace(namespace, namespace.namespace)
            installation.give_store(namespace)
            more = await asyncio.to_thread(scenario, namespace)
            await asyncio.sleep(1)
            _write(scenario.__name__.strip("_"), world.pods.values(), more)
            namespace.delete("namespace", namespace.namespace, "--wait=false")
    finally:
        await history.close()


def _gang_restart(namespace: Kubectl) -> dict[str, Any]:
    namespace.apply(training_job("gang", GANG, image="torch", numNodes=2))
    _wait(namespace, "trainingjob", "gang", "Complete")
    return {}


def _train_evaluate_serve(namespace: Kubectl) -> dict[str, Any]:
    namespace.apply_file(installation.ROOT / "examples" / "digits.yaml")
    _wait(namespace, "trainingjob", "digits", "Complete")
    _wait(namespace, "leptonmodel", "digits", "Ready")
    return {}


def _new_version(namespace: Kubectl) -> dict[str, Any]:
    sources = [upload_digits(namespace, seed) for seed in (0, 1)]
    for source in sources:
        namespace.apply(model("seeds", evaluation=GATE, source=source))
        _wait(namespace, "leptonmodel", "seeds", "Ready")
    return {"sources": sources}


def _wait(namespace: Kubectl, kind: str, name: str, condition: str) -> None:
    holds = is_ready if condition == "Ready" else lambda found: is_true(found, condition)
    wait_until(lambda: namespace.get(kind, name), holds, "a job completes", f"{kind} {name}")


def _write(scenario: str, pods: Iterable[Body], more: Mapping[str, Any]) -> None:
    day = datetime.now(UTC).date().isoformat()
    source = f"real pods on the embedded cluster, {day} (python -m tests.resilience.record)"
    endings = {each["name"]: each for pod in pods for each in _endings(pod)}
    text = {"source": source, **more, "endings": [endings[name] for name in sorted(endings)]}
    (RECORDED / f"{scenario}.json").write_text(json.dumps(text, indent=1) + "\n")


def _endings(pod: Body) -> list[dict[str, Any]]:
    role = pod["metadata"]["labels"]["lepton.ai/role"]
    container = CONTAINERS[role][0]
    statuses = pod["status"].get("containerStatuses", ())
    return [
        {
            "name": _name(pod, role, terminated.get("message", "")),
            "role": role,
            "exit_code": terminated["exitCode"],
            "reason": terminated.get("reason", ""),
            "message": terminated.get("message", ""),
        }
        for each in statuses
        if each["name"] == container and (terminated := each["state"].get("terminated"))
    ]


def _name(pod: Body, role: str, message: str) -> str:
    """Name an ending by what it is about, so that a scenario can ask for it."""
    labels = pod["metadata"]["labels"]
    about = [labels["lepton.ai/name"], role]
    if role == "train":
        return "-".join([*about, labels["lepton.ai/attempt"], labels["lepton.ai/rank"]])
    record = json.loads(message)
    if role == "evaluate":
        return "-".join([*about, str(record["evaluation"]["version"])])
    versions = [each["version"] for each in record.get("versions", ())]
    return "-".join([*about, str(max(versions, default=0))])


def _access(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """Return the API server of the embedded cluster, and what makes it trust us."""
    found = yaml.safe_load(kubeconfig.read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    trust = ssl.create_default_context(
        cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
    )
    with tempfile.NamedTemporaryFile() as pair:
        parts = (user["client-certificate-data"], user["client-key-data"])
        pair.write(b"".join(map(base64.b64decode, parts)))
        pair.flush()
        trust.load_cert_chain(pair.name)
    return str(cluster["server"]), trust


if __name__ == "__main__":
    main(sys.argv[1:])
