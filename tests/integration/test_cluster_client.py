"""The operator's own client against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.control_plane import ControlPlane
from lepton_operator import cluster as clusters
from lepton_operator import errors
from lepton_operator.cluster import Cluster
from lepton_operator.metrics import Metrics
from lepton_operator.plan import Reference
from tests.conftest import GOLDEN_FOLDER
from tests.integration.conftest import Namespace

CONTAINERS = {"containers": [{"name": "c", "image": "i"}]}


def a_pod(namespace: Namespace, name: str = "p", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace.name, **metadata},
        "spec": CONTAINERS,
    }


def reference(body: dict[str, Any], kind: str) -> Reference:
    metadata = body["metadata"]
    return Reference(kind, metadata["namespace"], metadata["name"], metadata["uid"])


def golden_manifests() -> Iterator[Any]:
    """Every manifest that a builder or a plan is held to."""
    for file in sorted(GOLDEN_FOLDER.rglob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        for number, each in enumerate(content if isinstance(content, list) else [content]):
            if isinstance(each, dict) and each.get("kind") in clusters.RESOURCES:
                name = f"{file.relative_to(GOLDEN_FOLDER).with_suffix('')}-{number}"
                yield pytest.param(each, id=name)


@pytest.mark.parametrize("manifest", list(golden_manifests()))
async def test_the_api_server_knows_every_field_that_we_build(
    manifest: dict[str, Any], client: Cluster, namespace: Namespace
) -> None:
    spec = manifest["spec"]
    if name := spec.get("priorityClassName"):
        make(namespace, "scheduling.k8s.io/v1", "PriorityClass", name, value=1)
    if name := spec.get("runtimeClassName"):
        make(namespace, "node.k8s.io/v1", "RuntimeClass", name, handler=name)
    metadata = manifest["metadata"] | {"namespace": namespace.name}
    made = await client._request(
        "POST",
        namespace.path(manifest["kind"]),
        manifest | {"metadata": metadata},
        query={"fieldValidation": "Strict", "dryRun": "All"},
    )
    assert made["metadata"]["labels"] == metadata["labels"]


def make(namespace: Namespace, version: str, kind: str, name: str, **parts: Any) -> None:
    """Make something that is not in a namespace."""
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    namespace.api.apply(f"/apis/{version}/{kind.lower()}es/{name}", manifest | parts)


async def test_a_status_is_replaced_only_as_it_was_seen(
    client: Cluster, namespace: Namespace
) -> None:
    namespace.train()
    seen = namespace.get("TrainingJob", "digits")
    assert seen
    version, target = seen["metadata"]["resourceVersion"], reference(seen, "TrainingJob")
    written = await client.patch_status(target, version, {"observedGeneration": 1, "attempt": 4})
    assert written["status"]["attempt"] == 4
    with pytest.raises(errors.Conflict):
        await client.patch_status(target, version, {"observedGeneration": 1})
    current = written["metadata"]["resourceVersion"]
    written = await client.patch_status(target, current, {"observedGeneration": 1})
    assert "attempt" not in written["status"]


async def test_a_service_is_scaled_as_it_was_seen_and_no_other_of_its_name(
    client: Cluster, namespace: Namespace
) -> None:
    def make_and_look() -> dict[str, Any]:
        namespace.apply("InferenceService", "digits", spec={"model": {"name": "digits"}})
        return namespace.get("InferenceService", "digits") or {}

    seen = make_and_look()
    version, target = seen["metadata"]["resourceVersion"], reference(seen, "InferenceService")
    await client.scale(target, version, 3)
    with pytest.raises(errors.Conflict):
        await client.scale(target, version, 4)
    latest = namespace.get("InferenceService", "digits") or {}
    assert latest["spec"]["replicas"] == 3
    namespace.delete("InferenceService", "digits")
    assert make_and_look()["spec"]["replicas"] == 1
    with pytest.raises(errors.Conflict):
        await client.scale(target, latest["metadata"]["resourceVersion"], 5)
    assert (namespace.get("InferenceService", "digits") or {})["spec"]["replicas"] == 1


async def test_what_is_made_twice_exists_already(client: Cluster, namespace: Namespace) -> None:
    await client.create(a_pod(namespace))
    with pytest.raises(errors.AlreadyExists):
        await client.create(a_pod(namespace))


async def test_another_pod_of_that_name_is_neither_deleted_nor_patched(
    client: Cluster, namespace: Namespace
) -> None:
    first = reference(await client.create(a_pod(namespace)), "Pod")
    await client.delete(first, grace_seconds=0)
    await client.create(a_pod(namespace))
    with pytest.raises(errors.Conflict):
        await client.delete(first)
    with pytest.raises(errors.Conflict):
        await client.patch(first, {"metadata": {"labels": {"a": "b"}}})
    assert "labels" not in (namespace.get("Pod", "p") or {})["metadata"]


async def test_an_annotation_is_merged_into_the_pod_that_was_seen(
    client: Cluster, namespace: Namespace
) -> None:
    made = await client.create(a_pod(namespace, annotations={"kept": "yes"}))
    patch = {"metadata": {"annotations": {"lepton.ai/attempt": "{}"}}}
    answer = await client.patch(reference(made, "Pod"), patch)
    assert answer["metadata"]["annotations"] == {"kept": "yes", "lepton.ai/attempt": "{}"}


async def test_what_is_not_there_is_not_found(client: Cluster, namespace: Namespace) -> None:
    with pytest.raises(errors.NotFound):
        await client.get("Pod", namespace.name, "none")
    with pytest.raises(errors.NotFound):
        await client.create(a_pod(namespace) | {"metadata": {"name": "p", "namespace": "none"}})


async def test_what_breaks_the_schema_is_invalid(client: Cluster, namespace: Namespace) -> None:
    with pytest.raises(errors.Invalid, match=r"spec\.containers"):
        await client.create(a_pod(namespace) | {"spec": {}})


async def test_a_list_comes_in_pages_and_holds_only_what_is_ours(
    client: Cluster, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "PAGE_SIZE", 2)
    ours = {"app.kubernetes.io/managed-by": "lepton-operator"}
    for number in range(5):
        await client.create(a_pod(namespace, f"p{number}", labels=ours))
    await client.create(a_pod(namespace, "other"))
    pages = [page async for page in client.list_pages("Pod", namespace.name)]
    assert [len(page) for page in pages] == [2, 2, 1]
    names = [pod["metadata"]["name"] for page in pages for pod in page]
    assert names == ["p0", "p1", "p2", "p3", "p4"]


async def test_no_answer_is_transient(plane: ControlPlane, tmp_path: Path) -> None:
    closed = plane.layout.kubeconfig.read_text().replace(str(plane.place.port), "1")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(closed)
    nowhere = await clusters.connect(kubeconfig, Metrics())
    with pytest.raises(errors.Transient, match="did not answer"):
        await nowhere.get("Pod", "default", "p")
    await nowhere.close()


async def test_an_answer_that_takes_too_long_is_transient(
    client: Cluster, namespace: Namespace
) -> None:
    with pytest.raises(errors.Transient):
        await client.get_lease(namespace.name, "quick", seconds=1e-6)


async def test_writes_in_parallel_share_a_bounded_pool(
    plane: ControlPlane, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of both: the time of a write begins when it waits for a connection."""
    monkeypatch.setattr(clusters, "CONNECTIONS", 4)
    client = await clusters.connect(plane.layout.kubeconfig, Metrics())
    made = await asyncio.gather(
        *(client.create(a_pod(namespace, f"p{number}")) for number in range(12))
    )
    assert len({pod["metadata"]["uid"] for pod in made}) == 12
    await client.close()
