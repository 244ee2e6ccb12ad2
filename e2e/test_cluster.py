"""The embedded cluster itself: it starts, heals, stands beside another, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import not_
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, ClusterError, control_plane, down, find, tool, up
from e2e.cluster import images as node_images
from e2e.cluster.certificates import Pair, authority, issue
from e2e.cluster.cgroup import hierarchies
from e2e.cluster.cluster import MAX_NODES
from e2e.cluster.layout import CLUSTERS, SOCKETS, Layout
from e2e.cluster.node import leads_into
from e2e.cluster.process import started_ticks
from e2e.cluster.services import STORE_CLASS
from e2e.cluster.target import CONTEXT, KUBECONFIG, own
from e2e.waiting import wait_until
from images.build import build

NAME = f"t{os.getpid()}"
NEIGHBOUR = f"n{os.getpid()}"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="the embedded cluster makes network namespaces: root only"
)


@pytest.fixture(scope="module")
def base() -> str:
    return build(["base"])["base"]


@pytest.fixture(scope="module")
def cluster(base: str) -> Iterator[Cluster]:
    yield up(NAME, nodes=2, fake_nodes=3, images=[base])
    down(NAME)


def kubectl(cluster: Cluster, *arguments: str, standard_input: str | None = None) -> str:
    done = tried(cluster, *arguments, standard_input=standard_input)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(
    cluster: Cluster, *arguments: str, standard_input: str | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [str(tool("kubectl")), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(argv, input=standard_input, capture_output=True, text=True, check=False)


def get(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(kubectl(cluster, "get", "--output=json", *arguments)))


def run_pod(cluster: Cluster, name: str, command: list[str], image: str, **spec: Any) -> None:
    container = {"name": "main", "image": image, "command": command}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }
    kubectl(cluster, "apply", "--filename=-", standard_input=json.dumps(manifest))
    wait_until(lambda: pod_is_ready(cluster, name), bool, "a pod runs", name)


def pod_is_ready(cluster: Cluster, name: str) -> bool:
    conditions = get(cluster, "pod", name)["status"].get("conditions", [])
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def runs_again(pod: dict[str, Any]) -> bool:
    [container] = pod["status"]["containerStatuses"]
    return bool(container["restartCount"] and container["ready"])


def node_is_ready(cluster: Cluster, name: str) -> bool:
    conditions = get(cluster, "node", name)["status"]["conditions"]
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def gpus(cluster: Cluster, node: str) -> str:
    return str(get(cluster, "node", node)["status"]["allocatable"]["nvidia.com/gpu"])


def pids(cluster: Cluster) -> dict[str, int | None]:
    return {daemon.name: daemon.pid for daemon in cluster.daemons()}


def traces(name: str) -> list[str]:
    """Whatever of a cluster is left on this machine."""
    layout = Layout.of(name)
    word = f"lepton-{name}"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    links = Path("/var/log/containers").glob("*")
    commands = [
        command_of(int(folder.name))
        for folder in Path("/proc").glob("[0-9]*")
        if folder.name != str(os.getpid())
    ]
    return [
        *[str(folder) for folder in (layout.state, layout.run) if folder.exists()],
        *[line for line in mounts if f"/{name}/" in line or f"netns/{word}" in line],
        *[line for line in commands if f"{layout.state}/" in line or f"{layout.run}/" in line],
        *[str(root / word) for root in hierarchies() if (root / word).exists()],
        *[str(file) for file in Path("/run/netns").glob(word)],
        *[str(file) for file in Path("/var/lib/cni/results").glob(f"lepton.{name}.*")],
        *[str(link) for link in links if leads_into(link, layout.state)],
    ]


def command_of(pid: int) -> str:
    """A process's command line; none of one that has ended, or is just ending."""
    with suppress(FileNotFoundError, ProcessLookupError):
        if started_ticks(pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return words.replace(b"\0", b" ").decode(errors="replace")
    return ""


def shared_files(cluster: Cluster) -> set[Path]:
    """What a cluster has in folders that the whole machine shares."""
    device = Path("/sys/class/net", cluster.network.device)
    nodes = cluster._nodes()
    return {device, cluster.network.namespace_file}.union(
        *(node._shim_sockets() for node in nodes),
        *(node._cni_results() for node in nodes),
        *(node._log_links() for node in nodes),
    )


def firewall() -> list[str]:
    """This machine's rules, without the counters and the time that are saved with them."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [line.partition(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


def test_a_service_is_reached_by_name_from_a_pod_on_the_other_node(
    cluster: Cluster, base: str
) -> None:
    serve = ["python3", "-m", "http.server", "8000"]
    run_pod(cluster, "server", serve, base, nodeName="node-1")
    kubectl(cluster, "expose", "pod", "server", "--port=80", "--target-port=8000")
    asked = "u.urlopen('http://server.default.svc', timeout=5)"
    fetch = f"import urllib.request as u; print({asked}.status)"
    run_pod(cluster, "client", ["sleep", "600"], base, nodeName="node-2")
    # A pod is ready before its server listens, and before each node has the Service's rules.
    wait_until(
        lambda: tried(cluster, "exec", "client", "--", "python3", "-c", fetch),
        lambda done: done.stdout.strip() == "200",
        "a server answers",
    )
    address = get(cluster, "service", "server")["spec"]["clusterIP"]
    from_here = subprocess.run(
        [sys.executable, "-c", fetch.replace("server.default.svc", address)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert from_here.stdout.strip() == "200"
    wait_until(
        lambda: kubectl(cluster, "logs", "server"),
        lambda lines: lines.count("GET / HTTP") >= 2,
        "an object is seen",
    )


def test_fake_nodes_run_pods_at_once(cluster: Cluster, base: str) -> None:
    taint = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}
    run_pod(
        cluster,
        "fake",
        ["none"],
        base,
        nodeSelector={"type": "kwok"},
        tolerations=[taint],
    )
    assert gpus(cluster, "fake-1") == "8"


def test_starting_twice_changes_nothing(cluster: Cluster, base: str) -> None:
    before = pids(cluster)
    assert None not in before.values()
    up(NAME, nodes=2, fake_nodes=3, images=[base])
    assert pids(cluster) == before


def test_parts_that_were_killed_are_started_again_and_pods_live_on(
    cluster: Cluster, base: str
) -> None:
    run_pod(cluster, "survivor", ["sleep", "600"], base)
    started = get(cluster, "pod", "survivor")["status"]["containerStatuses"][0]["state"]
    for pid in pids(cluster).values():
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    up(NAME, nodes=2, fake_nodes=3, images=[base])
    assert None not in pids(cluster).values()
    after = get(cluster, "pod", "survivor")["status"]["containerStatuses"][0]["state"]
    assert after == started


def test_a_lost_network_is_made_again(cluster: Cluster, base: str) -> None:
    subprocess.run(["ip", "netns", "delete", cluster.network.namespace], check=True)
    subprocess.run(["ip", "link", "delete", cluster.network.device], check=True)
    up(NAME, nodes=2, fake_nodes=3, images=[base])
    kubectl(cluster, "delete", "pod", "--all", "--force")
    run_pod(cluster, "after", ["sleep", "600"], base)


def test_a_stopped_kubelet_kills_nothing_and_its_gpus_come_back(
    cluster: Cluster, base: str
) -> None:
    run_pod(cluster, "unwatched", ["sleep", "600"], base, nodeName="node-2")
    # Only this pod's: of pods that earlier tests deleted some may just be ending.
    uid = get(cluster, "pod", "unwatched")["metadata"]["uid"]
    pod = cluster.cgroup.child(f"node-2/pods/kubepods/besteffort/pod{uid}")
    processes = pod.processes()
    assert processes
    cluster.stop_kubelet("node-2")
    assert pod.processes() == processes
    cluster.start_kubelet("node-2")
    assert gpus(cluster, "node-2") == "8"


def test_a_killed_node_is_not_ready_and_comes_back(cluster: Cluster, base: str) -> None:
    run_pod(cluster, "victim", ["sleep", "600"], base, nodeName="node-2")
    cluster.kill_node("node-2")
    assert cluster.cgroup.child("node-2").processes() == set()
    wait_until(lambda: node_is_ready(cluster, "node-2"), not_, "a node is not ready")
    cluster.start_node("node-2")
    assert node_is_ready(cluster, "node-2")
    assert gpus(cluster, "node-2") == "8"
    kubectl(cluster, "delete", "pod", "victim", "--force", "--ignore-not-found")
    run_pod(cluster, "next", ["sleep", "600"], base, nodeName="node-2")


def test_writes_are_recorded_with_their_user(cluster: Cluster) -> None:
    kubectl(cluster, "create", "configmap", "audited")
    [event] = [
        event
        for event in cluster.layout.audit_events()
        if event["verb"] == "create" and event["objectRef"].get("name") == "audited"
    ]
    assert event["user"]["username"] == "admin"


def test_another_cluster_stands_beside_it_and_leaves_nothing(cluster: Cluster, base: str) -> None:
    run_pod(cluster, "there", ["sleep", "600"], base)
    rules = firewall()
    neighbour = up(NEIGHBOUR, images=[base])
    run_pod(neighbour, "here", ["sleep", "600"], base)
    files = shared_files(neighbour)
    assert len(files) >= len(("device", "namespace", "shim", "address", "loopback", "log"))
    neighbour.kill_node("node-1")
    neighbour.start_node("node-1")
    wait_until(lambda: get(neighbour, "pod", "here"), runs_again, "a pod runs", "again")
    files |= shared_files(neighbour)
    down(NEIGHBOUR)
    down(NEIGHBOUR)
    assert traces(NEIGHBOUR) == []
    assert [file for file in files if file.exists() or file.is_symlink()] == []
    assert firewall() == rules
    assert pod_is_ready(cluster, "there")
    assert None not in pids(cluster).values()


@pytest.mark.parametrize(
    "after_seconds",
    [
        pytest.param(0.3, marks=pytest.mark.long),
        0.9,
        1.5,
        pytest.param(2.5, marks=pytest.mark.long),
    ],
)
def test_a_start_that_was_killed_is_removed_or_finished(after_seconds: float) -> None:
    starting = subprocess.Popen(
        [sys.executable, "-c", f"from e2e.cluster import up; up({NEIGHBOUR!r})"]
    )
    time.sleep(after_seconds)
    starting.kill()
    starting.wait()
    try:
        if after_seconds > 1:
            assert None not in pids(up(NEIGHBOUR)).values()
    finally:
        down(NEIGHBOUR)
    assert traces(NEIGHBOUR) == []


def test_a_cluster_of_an_earlier_boot_is_started_afresh() -> None:
    first = up(NEIGHBOUR)
    kubectl(first, "create", "configmap", "old")
    spec = json.loads(first.layout.spec.read_text())
    first.layout.spec.write_text(json.dumps(spec | {"boot": "an earlier one"}))
    try:
        second = up(NEIGHBOUR)
        assert "old" not in kubectl(second, "get", "configmaps")
    finally:
        down(NEIGHBOUR)
    assert traces(NEIGHBOUR) == []


def test_a_bare_control_plane_needs_no_network_of_its_own(tmp_path: Path) -> None:
    with control_plane(tmp_path, controllers=True) as plane:
        assert plane.api.ready()
        assert plane.api.get("/api/v1/namespaces/default/serviceaccounts/default")
    assert all(not daemon.running() for daemon in plane.daemons())


def test_a_reused_pid_is_never_taken_for_ours(tmp_path: Path) -> None:
    with control_plane(tmp_path) as plane:
        etcd = plane.etcd
        record = json.loads(etcd.record.read_text())
        etcd.record.write_text(json.dumps(record | {"started": record["started"] - 1}))
        assert not etcd.running()
        etcd.kill()
        assert started_ticks(record["pid"]) == record["started"]
        os.kill(record["pid"], signal.SIGKILL)


def test_a_certificate_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    """`make cluster-status` asks for them too, while a cluster starts."""

    def ask(_: int) -> Pair:
        return issue(authority(tmp_path, "ca"), "server", "server", hosts=["localhost"])

    with ThreadPoolExecutor(8) as threads:
        (pair,) = set(threads.map(ask, range(8)))
    ssl.create_default_context(cafile=tmp_path / "ca.crt").load_cert_chain(
        pair.certificate, pair.key
    )


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({KUBECONFIG: "/etc/hostname"}, f"{CONTEXT} is not set"),
        ({CONTEXT: "kind-kind"}, f"{KUBECONFIG} is not set"),
        ({KUBECONFIG: "/nowhere", CONTEXT: "kind-kind"}, "there is no such file"),
    ],
)
def test_a_cluster_of_ones_own_has_to_be_named_in_full(
    environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ClusterError, match=sentence):
        own(environment)


def test_a_kubeconfig_in_the_environment_chooses_nothing() -> None:
    assert own({"KUBECONFIG": "/etc/hostname"}) is None
    target = own({KUBECONFIG: "/etc/hostname", CONTEXT: "kind-kind"})
    assert target is not None
    assert target.context == "kind-kind"


@pytest.mark.parametrize("name", ["", "Dev", "../dev", "a" * 21, "dev-"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot be a cluster's name"):
        up(name)


def test_more_nodes_than_addresses_are_refused() -> None:
    with pytest.raises(ClusterError, match=f"1 to {MAX_NODES} nodes"):
        up(NEIGHBOUR, nodes=MAX_NODES + 1)


def test_an_image_that_was_not_built_is_named() -> None:
    with pytest.raises(ClusterError, match="is not in buildah's storage"):
        node_images.prepare(["localhost/lepton/nothing:here"])


def test_looking_for_a_cluster_that_is_not_there_says_how_to_start_it() -> None:
    with pytest.raises(ClusterError, match="make cluster-up NAME=nowhere"):
        find("nowhere")
    assert not (CLUSTERS / "nowhere").exists()
    assert not (SOCKETS / "nowhere").exists()


def test_the_volume_of_the_store_is_offered_again_once_its_claim_is_gone(cluster: Cluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "store"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": STORE_CLASS,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    for _ in range(2):
        kubectl(cluster, "apply", "--filename=-", standard_input=json.dumps(claim))
        wait_until(cluster.services.volume_is_bound, bool, "a condition shows")
        (cluster.layout.store / "left").touch()
        kubectl(cluster, "delete", "pvc", "store")
        cluster.release_store()
        assert list(cluster.layout.store.iterdir()) == []


def test_removing_half_a_cluster_leaves_the_others_their_network(cluster: Cluster) -> None:
    Layout.of(NEIGHBOUR).state.mkdir(parents=True)
    down(NEIGHBOUR)
    assert traces(NEIGHBOUR) == []
    assert cluster.network.exists()
