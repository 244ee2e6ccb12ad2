"""Install the chart, with the images built from this checkout, as the README tells a person to."""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from e2e.certificates import Authority, Pair, door_identity
from e2e.cluster import ClusterError, packages, tool, up
from e2e.cluster import target as target_of
from e2e.cluster.process import DIE_WITH_PARENT
from e2e.cluster.progress import Progress, say
from e2e.cluster.target import Target
from e2e.kubectl import Kubectl
from images.build import build, push
from images.store.start import Keys, bucket

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "lepton-operator"
RELEASE = "lepton"
SYSTEM = "lepton-system"
IMAGES = ("operator", "agent", "trainer", "triton", "door", "store", "prometheus")
TEST_IMAGES = ("torch", "debian")  # of users: Python and torch only, and one whose user is root
# images/triton is the newest that PyPI has for any machine, and older than the chart's floor.
TRITON = {"version": "2.51.0", "minimumVersion": "2.51.0"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@cache
def image_references() -> dict[str, str]:
    """Return this checkout's images by name, where the cluster finds them.

    They are the same for as long as this process runs, whatever is edited meanwhile.
    """
    wanted = (*IMAGES, *TEST_IMAGES)
    return build(wanted) if target_of.own() is None else push(_registry(), wanted)


def provide(at: Target, name: str) -> str:
    """Have the cluster find a further image of this checkout; return its reference."""
    if at.embedded is None:
        return push(_registry(), (name,))[name]
    reference = build((name,))[name]
    at.embedded.load((reference,))
    return reference


def _registry() -> str:
    registry = os.environ.get("LEPTON_REGISTRY", "")
    if not registry:
        raise ClusterError(
            "A cluster of your own pulls our images from a registry: add REGISTRY=registry/path"
        )
    return registry


def target(name: str = "dev", *, nodes: int = 2, fake_nodes: int = 0) -> Target:
    """Return the cluster to work on; the embedded one is started, with our images in it."""
    own = target_of.own()
    if own is not None:
        return own
    packages.need_root()
    references = sorted(image_references().values())
    return target_of.of(up(name, nodes, fake_nodes, images=references))


def kubectl(at: Target, namespace: str = "default") -> Kubectl:
    return Kubectl(at.kubeconfig, at.context, namespace)


def install(
    at: Target,
    namespaces: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    progress: Progress = say,
) -> None:
    """Install or upgrade the chart; each namespace is made, and gets its store and its door."""
    wanted = tuple(namespaces)
    for namespace in wanted:
        make_namespace(kubectl(at), namespace)
    progress(f"Installing the chart into {SYSTEM} ...")
    progress(
        f"triton.minimumVersion is lowered to {TRITON['minimumVersion']}: the Triton in our image, "
        "for machines without a GPU, has known holes. Set images.triton to a current release "
        "where it is reached by anybody but you."
    )
    with at.alone("chart"):
        _forget_what_was_killed(at)
        ours = _values_of_ours(at, wanted)
        _helm(at, _merged(ours, _values_of(at), values or {}))


def make_namespace(cluster: Kubectl, name: str) -> None:
    """Make a namespace that enforces the `restricted` Pod Security Standard."""
    metadata = {"name": name, "labels": RESTRICTED}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def root_secret(system: Kubectl) -> str:
    """Return the text that the store's keys come from: the installed one, or a new one."""
    found = system.get("secret", f"{RELEASE}-store-accounts")
    if found is None:
        return secrets.token_hex(16)
    return base64.b64decode(found["data"]["root-secret"]).decode()


def give_store(namespace: Kubectl) -> None:
    """Give a namespace its bucket, its user and its Secret, as the chart does for those it lists.

    A chart upgrade would restart the store; this asks the running one.
    """
    name, system = namespace.namespace, namespace.within(SYSTEM)
    store = f"{RELEASE}-store"
    start = ("python", "/opt/lepton/store/start.py", "ensure", name)
    system.run("exec", f"deployment/{store}", "--", *start)
    keys = Keys.of(root_secret(system), name)
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "lepton-store"},
            "stringData": {
                "url": f"s3://{bucket(name)}",
                "endpoint": f"http://{store}.{SYSTEM}.svc:7070",
                "region": "us-east-1",
                "accessKey": keys.access,
                "secretKey": keys.secret,
            },
        }
    )


def authority_of_doors(cluster: Kubectl) -> Authority:
    """Return the authority that the chart has made for the doors."""
    found = cluster.within(SYSTEM).get("secret", "lepton-operator-xds-ca") or {}
    signer = {name: base64.b64decode(part) for name, part in found["data"].items()}
    return Authority.read(Pair(key=signer["tls.key"], certificate=signer["tls.crt"]))


def give_door(namespace: Kubectl) -> None:
    """Give a namespace the certificate of its doors, as the chart does for those it lists."""
    authority = authority_of_doors(namespace)
    pair = authority.issue(door_identity(namespace.namespace))
    parts = {"ca.crt": authority.pem(), "tls.crt": pair.certificate, "tls.key": pair.key}
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "lepton-door"},
            "type": "kubernetes.io/tls",
            "stringData": {name: part.decode() for name, part in parts.items()},
        }
    )


def _values_of_ours(at: Target, namespaces: Sequence[str]) -> dict[str, Any]:
    secret = root_secret(kubectl(at, SYSTEM))
    return {
        "images": {name: image_references()[name] for name in IMAGES},
        "store": {"enabled": True, "rootSecret": secret, "namespaces": list(namespaces)},
        "door": {"namespaces": list(namespaces)},
        "triton": TRITON,
    }


def _forget_what_was_killed(at: Target) -> None:
    """Helm takes a revision that was never finished for one that is being made, for ever.

    Of an embedded cluster it is known that nobody makes one now.
    """
    if at.embedded is not None:
        pending = "status in (pending-install,pending-upgrade,pending-rollback)"
        revisions = ("secret", "--selector", f"owner=helm,name={RELEASE},{pending}")
        kubectl(at, SYSTEM).run("delete", *revisions)


def _values_of(at: Target) -> dict[str, Any]:
    """Return the chart's values that this cluster asks for."""
    if at.embedded is None:
        return {}
    return {"store": {"persistence": {"storageClassName": "lepton-local"}}}


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layers as one, later ones first in rank; maps are merged, all else replaced."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
            out[key] = _merged(out[key], value) if both else value
    return out


def _helm(at: Target, values: Mapping[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        argv = (
            *DIE_WITH_PARENT,
            str(tool("helm")),
            *("--kubeconfig", str(at.kubeconfig), "--kube-context", at.context),
            *("upgrade", "--install", RELEASE, str(CHART)),
            *("--namespace", SYSTEM, "--create-namespace", "--values", file.name),
            *("--wait", "--timeout", "5m"),  # two minutes of them are an operator's to start
        )
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"helm could not install the chart: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Install into the embedded cluster of this name, or into the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--namespace", action="append", default=["lepton-demo"])
    parsed = parser.parse_args(arguments)
    try:
        install(target(parsed.name), parsed.namespace)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
