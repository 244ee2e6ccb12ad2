"""`make demo`: from handwritten digits to a prediction, on a real cluster.

The cluster stays up: the last lines say how to look at it and how to stop it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from e2e import installation
from e2e.cluster import ClusterError, tools
from e2e.cluster.target import Target
from e2e.installation import ROOT, image_references
from e2e.kubectl import Kubectl, KubectlError
from e2e.pods import ended, program_pod
from e2e.waiting import WaitedTooLongError, condition, is_ready, wait_until

NAMESPACE = "lepton-demo"
KINDS = ("trainingjob", "leptonmodel", "inferenceservice")
CLIENT = "read-digit"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev", help="which embedded cluster")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        at = installation.target(options.name)
        with at.alone("demo"):
            installation.install(at, [NAMESPACE])
            run(installation.kubectl(at, NAMESPACE))
    except (ClusterError, KubectlError, WaitedTooLongError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command begins anew; `make cluster-down` removes the cluster.")
        return 130
    print(farewell(at, time.monotonic() - began))
    return 0


def run(kubectl: Kubectl) -> None:
    """Apply the three manifests, tell what happens, and ask the served model to read a digit."""
    manifest = ROOT / "examples" / "digits.yaml"
    print(f"\n$ kubectl apply -f {manifest.relative_to(ROOT)}", flush=True)
    for kind in KINDS:
        kubectl.delete(kind, "digits", "--wait=true")
    kubectl.apply_file(manifest)
    told: set[str] = set()

    def look() -> list[Mapping[str, Any] | None]:
        found = [kubectl.get(kind, "digits") for kind in KINDS]
        for line in news(found, told):
            print(line, flush=True)
        return list(found)

    wait_until(look, serves_the_result, "everything is ready")
    print(kubectl.run("get", "tj,lm,lisvc"))
    print(predict(kubectl))


def serves_the_result(found: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether all are ready, and what is served is what this job has trained.

    The store may hold versions of an earlier run: a new one is served when it has passed.
    """
    if not all(map(is_ready, found)):
        return False
    job, model, service = (each["status"] for each in found if each is not None)
    version = job.get("output", {}).get("version")
    return bool(version == model["served"]["version"] == service.get("version"))


def news(found: list[dict[str, Any] | None], told: set[str]) -> Iterator[str]:
    """Yield a line for each sentence of a Ready condition that was not told yet."""
    for each in found:
        ready = condition(each, "Ready")
        if each is None or not ready:
            continue
        line = f"{each['kind']:<17} {ready['reason']:<16} {ready['message']}"
        if line not in told:
            told.add(line)
            yield line


def predict(kubectl: Kubectl) -> str:
    """Return what the client prints: a pod beside the service, so it works on any cluster."""
    kubectl.delete("pod", CLIENT, "--wait=true")
    kubectl.apply(client_pod(kubectl.namespace))
    try:
        pod = wait_until(lambda: kubectl.get("pod", CLIENT), ended, "a pod runs")
        said = kubectl.logs(CLIENT)
        if pod is None or pod["status"]["phase"] != "Succeeded":
            raise ClusterError(f"The served model was asked in vain; pod {CLIENT} says:\n{said}")
        return said
    finally:
        kubectl.delete("pod", CLIENT, "--wait=false")


def client_pod(namespace: str) -> dict[str, Any]:
    """Return a pod that asks the service."""
    command = ["python3", "-m", "lepton_ai.recipes.read_digit"]
    container = {
        "name": "client",
        "image": image_references()["trainer"],
        "command": [*command, "--url", f"digits.{namespace}.svc:8000"],
    }
    return program_pod(CLIENT, container)


def farewell(at: Target, seconds: float) -> str:
    """Return how to look at what runs now, and how to stop it."""
    lines = [f"Done in {seconds:.0f} s. The model is still being served."]
    # By its path: a new machine has no kubectl but the one that was built.
    program = tools.path("kubectl")
    kubectl = f"{program} --kubeconfig {at.kubeconfig} --context {at.context} -n {NAMESPACE}"
    lines.append(f"Look at it:  {kubectl} get tj,lm,lisvc,pods")
    name = f" NAME={at.embedded.name}" if at.embedded and at.embedded.name != "dev" else ""
    stop = (
        f"make cluster-down{name}" if at.embedded else f"{kubectl} delete -f examples/digits.yaml"
    )
    lines.append(f"Stop it:     {stop}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
