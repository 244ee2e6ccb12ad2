"""What Helm makes of the chart, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.installation import CHART, RELEASE, ROOT, SYSTEM
from images.store.start import Keys, bucket
from lepton_operator.settings import Defaults, Door, DoorDefaults, Images, Peer, Settings, Xds
from tests.chart.conftest import CASES, ROOT_SECRET, TEAMS, Renders
from tests.conftest import Golden
from tests.helm import Document, Helm, HelmError, Values
from tests.policies import Endpoint, Flow, is_allowed

CRD = "CustomResourceDefinition"


def named(documents: list[Document]) -> dict[str, Document]:
    """Documents by what they are in a cluster; two of one name would overwrite each other."""
    found: dict[str, Document] = {}
    for each in documents:
        metadata = each["metadata"]
        name = "/".join(filter(None, (each["kind"], metadata.get("namespace"), metadata["name"])))
        assert name not in found
        found[name] = each
    return found


def settings_of(documents: list[Document]) -> Settings:
    text = named(documents)[f"ConfigMap/{SYSTEM}/{RELEASE}"]["data"]["settings.json"]
    return Settings.model_validate(json.loads(text))


def pods(documents: list[Document]) -> list[Document]:
    return [each["spec"]["template"] for each in documents if each["kind"] == "Deployment"]


@pytest.mark.parametrize("case", CASES)
def test_the_render_is_as_it_was_reviewed(renders: Renders, golden: Golden, case: str) -> None:
    found = {name: reviewed(each) for name, each in named(renders[case]).items()}
    golden(f"chart/{case}", {name: found[name] for name in found if not name.startswith(CRD)})


def reviewed(document: Document) -> Document:
    """A document without the certificates in it, which are new with each render."""
    if document.get("type") != "kubernetes.io/tls":
        return document
    return {**document, "data": dict.fromkeys(document["data"], "a certificate or its key")}


def test_the_chart_has_nothing_that_helm_warns_of(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART))


def test_every_value_that_can_be_set_stands_in_values_yaml() -> None:
    """It is the reference: what only the schema knows nobody would find."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert missing_from(yaml.safe_load((CHART / "values.yaml").read_text()), schema) == []


def missing_from(values: Any, schema: Mapping[str, Any], path: str = "") -> list[str]:
    missing = []
    for name, part in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        if name in values:
            missing += missing_from(values[name], part, where)
        elif where != ".global":  # Helm's own, for charts that contain this one
            missing.append(where)
    return missing


def test_the_crds_are_those_of_the_repository_and_are_kept(renders: Renders) -> None:
    found = [each for each in renders["default"] if each["kind"] == CRD]
    assert found == [
        yaml.load(each.read_text(), Loader=yaml.CSafeLoader)
        for each in sorted((ROOT / "crds").iterdir())
    ]
    kept = [each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in found]
    assert kept == ["keep"] * 3


def test_a_second_release_shares_no_name_with_the_first(helm: Helm) -> None:
    first = named(helm.render({"watchNamespaces": ["team-a"]}))
    apart = {"crds": {"create": False}, "priorityClasses": {"create": False}}
    second = helm.render({"watchNamespaces": ["team-b"], **apart}, namespace="team-b")
    assert first.keys().isdisjoint(named(second))


def test_without_values_the_settings_are_the_operators_own_defaults(renders: Renders) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    chosen = {name: values["images"][name] for name in ("agent", "trainer", "triton", "door")}
    classes = {"training": "lepton-training", "inference": "lepton-inference"}
    defaults = Defaults(
        images=Images(**chosen),
        training_priority_class=classes["training"],
        inference_priority_class=classes["inference"],
    )
    operator = Peer(
        namespace_labels={"kubernetes.io/metadata.name": SYSTEM},
        pod_labels={
            "app.kubernetes.io/name": "lepton-operator",
            "app.kubernetes.io/instance": RELEASE,
            "app.kubernetes.io/component": "operator",
        },
    )
    xds = Xds(certificates=Path("/etc/lepton-xds"))
    expected = Settings(defaults=defaults, door=Door(operator=operator), xds=xds)
    assert settings_of(renders["default"]) == expected


def test_the_administrator_can_set_every_default(renders: Renders) -> None:
    """A setting that the chart did not write would be the operator's, whatever the values say."""
    settings = settings_of(renders["default"])
    assert settings.defaults.model_fields_set == Defaults.model_fields.keys()
    assert (
        settings.defaults.triton.model_fields_set
        == type(settings.defaults.triton).model_fields.keys()
    )
    assert settings.defaults.door.model_fields_set == DoorDefaults.model_fields.keys()
    assert settings.door.model_fields_set == Door.model_fields.keys()


def test_no_user_id_is_given_where_the_cluster_assigns_them(renders: Renders) -> None:
    documents = renders["openshift"]
    assert settings_of(documents).defaults.run_as_user is None
    assert settings_of(documents).defaults.fs_group is None
    contexts = [pod["spec"]["securityContext"] for pod in pods(documents)]
    assert all({"runAsUser", "fsGroup"}.isdisjoint(context) for context in contexts)
    assert len(contexts) == 2


def test_large_numbers_stay_whole(renders: Renders) -> None:
    """Helm reads a number of a values file as a float, and would write 1e+06."""
    documents = renders["everything"]
    assert named(documents)["PriorityClass/batch"]["value"] == 1_000_000
    users = {pod["spec"]["securityContext"]["runAsUser"] for pod in pods(documents)}
    assert users == {1_000_680_000}
    assert settings_of(documents).defaults.run_as_user == 1_000_680_000


def test_a_gpu_of_another_vendor_needs_its_name_only(helm: Helm) -> None:
    defaults = settings_of(helm.render({"defaults": {"gpuResource": "amd.com/gpu"}})).defaults
    for resources in (defaults.training_resources, defaults.inference_resources):
        assert resources.limits == {"amd.com/gpu": 1}


def test_pods_ask_for_no_gpu_if_their_resources_are_given_as_empty(helm: Helm) -> None:
    defaults = settings_of(helm.render({"defaults": {"trainingResources": {}}})).defaults
    assert defaults.training_resources.limits == {}
    assert defaults.inference_resources.limits == {"nvidia.com/gpu": 1}


def test_a_change_of_settings_restarts_the_operator(helm: Helm) -> None:
    def checksum(values: Values) -> str:
        annotations = pods(helm.render(values))[0]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    assert checksum({}) == checksum({"operator": {"replicas": 3}})
    assert checksum({}) != checksum({"operator": {"workers": 4}})


@pytest.mark.parametrize("namespace", TEAMS)
def test_a_namespace_gets_the_keys_that_the_store_gives_it(
    renders: Renders, namespace: str
) -> None:
    documents = named(renders["store"])
    secret = documents[f"Secret/{namespace}/lepton-store"]["stringData"]
    keys = Keys.of(ROOT_SECRET, namespace)
    assert (secret["accessKey"], secret["secretKey"]) == (keys.access, keys.secret)
    assert secret["url"] == f"s3://{bucket(namespace)}"
    (port,) = documents[f"Service/{SYSTEM}/{RELEASE}-store"]["spec"]["ports"]
    assert secret["endpoint"] == f"http://{RELEASE}-store.{SYSTEM}.svc:{port['port']}"


def test_the_store_is_told_the_same_namespaces_and_secret(renders: Renders) -> None:
    accounts = named(renders["store"])[f"Secret/{SYSTEM}/{RELEASE}-store-accounts"]
    assert accounts["stringData"] == {"root-secret": ROOT_SECRET, "namespaces": "\n".join(TEAMS)}


def test_the_releases_own_namespace_may_have_a_bucket_without_the_root_secret(helm: Helm) -> None:
    store: Values = {**CASES["store"]["store"], "namespaces": [SYSTEM]}
    documents = named(helm.render({"store": store}))
    assert "root-secret" not in documents[f"Secret/{SYSTEM}/lepton-store"]["stringData"]


def test_nothing_but_certificates_is_random(helm: Helm, renders: Renders) -> None:
    first, second = (
        [*map(reviewed, each)] for each in (renders["store"], helm.render(CASES["store"]))
    )
    assert first == second


def test_a_namespaced_release_has_the_same_rights_there_but_for_nodes(renders: Renders) -> None:
    everywhere = named(renders["default"])[f"ClusterRole/{RELEASE}"]["rules"]
    documents = named(renders["watch-namespaces"])
    for namespace in TEAMS:
        rules = documents[f"Role/{namespace}/{RELEASE}"]["rules"]
        assert [*rules, everywhere[-1]] == everywhere
    assert everywhere[-1]["resources"] == ["nodes"]
    assert not [name for name in documents if name.startswith("ClusterRole")]


def test_each_way_to_connect_prometheus_that_is_shown_renders(helm: Helm) -> None:
    page = (ROOT / "docs/autoscaling-signals.md").read_text()
    shown = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    asked = [settings_of(helm.render(values)).prometheus.url for values in shown]
    own, *theirs = (values["prometheus"].get("url") for values in shown)
    assert own is None
    assert asked == [f"http://{RELEASE}-prometheus.{SYSTEM}.svc:9090", *theirs]
    assert len(asked) == 3


def test_prometheus_takes_no_pod_of_another_namespace_for_the_operator(helm: Helm) -> None:
    documents = named(helm.render({"prometheus": {"enabled": True}}))
    data = documents[f"ConfigMap/{SYSTEM}/{RELEASE}-prometheus"]["data"]
    jobs = yaml.safe_load(data["prometheus.yaml"])["scrape_configs"]
    found = {
        job["job_name"]: (discovery.get("namespaces"), discovery["selectors"][0]["label"])
        for job in jobs
        for discovery in job["kubernetes_sd_configs"]
    }
    assert found.pop("lepton-operator") == (
        {"names": [SYSTEM]},
        "app.kubernetes.io/name=lepton-operator,app.kubernetes.io/component=operator",
    )
    assert {namespaces for namespaces, _ in found.values()} == {None}


def test_only_its_namespace_and_its_clients_may_ask_prometheus(renders: Renders) -> None:
    documents = named(renders["prometheus"])
    policy = documents[f"NetworkPolicy/{SYSTEM}/{RELEASE}-prometheus"]
    pod = documents[f"Deployment/{SYSTEM}/{RELEASE}-prometheus"]["spec"]["template"]
    prometheus = Endpoint(SYSTEM, pod["metadata"]["labels"])
    asking = [Endpoint(each, {"app": "any"}) for each in (SYSTEM, "keda", TEAMS[0])]
    allowed = [is_allowed(Flow(each, prometheus, 9090), [policy]) for each in asking]
    assert allowed == [True, True, False]
    assert not is_allowed(Flow(asking[0], prometheus, 9091), [policy])
    assert is_allowed(Flow(prometheus, asking[2], 9902), [policy])


BAD: tuple[tuple[str, Values, str], ...] = (
    ("an unknown value", {"replicas": 2}, "additional properties 'replicas' not allowed"),
    (
        "a misspelt value",
        {"operator": {"replica": 2}},
        "additional properties 'replica' not allowed",
    ),
    ("no operator", {"operator": {"replicas": 0}}, "'/operator/replicas': minimum: got 0, want 1"),
    ("root", {"defaults": {"runAsUser": 0}}, "'/defaults/runAsUser': minimum: got 0, want 1"),
    (
        "a log level",
        {"operator": {"logLevel": "info"}},
        "'/operator/logLevel': value must be one of",
    ),
    (
        "an image with a space",
        {"images": {"agent": "a b"}},
        "'/images/agent': 'a b' does not match",
    ),
    (
        "a namespace in capitals",
        {"watchNamespaces": ["A"]},
        "'/watchNamespaces/0': 'A' does not match",
    ),
    (
        "a namespace twice",
        {"watchNamespaces": ["a", "a"]},
        "'/watchNamespaces': items at 0 and 1 are",
    ),
    (
        "a namespace too long for a bucket",
        {"store": {"namespaces": ["n" * 57]}},
        "'/store/namespaces/0': maxLength: got 57, want 56",
    ),
    (
        "a GPU that is no resource",
        {"defaults": {"gpuResource": "nvidia gpu"}},
        "'/defaults/gpuResource': 'nvidia gpu' does not match",
    ),
    (
        "a quantity without a unit that exists",
        {"defaults": {"trainingSharedMemory": "8GB"}},
        "'/defaults/trainingSharedMemory': '8GB' does not match",
    ),
    (
        "a priority of the system's",
        {"priorityClasses": {"training": {"value": 2_000_000_000}}},
        "'/priorityClasses/training/value': maximum",
    ),
    (
        "a Triton of old",
        {"triton": {"version": "1.2.3"}},
        "'/triton/version': '1.2.3' does not match",
    ),
    (
        "a door without pods",
        {"door": {"replicas": 0}},
        "'/door/replicas': minimum: got 0, want 1",
    ),
    (
        "an issuer that is no name",
        {"door": {"certificates": {"issuer": "Doors!"}}},
        "'/door/certificates/issuer': 'Doors!' does not match",
    ),
    (
        "a store without a root secret",
        {"store": {"enabled": True}},
        "store.rootSecret: every namespace's keys are derived from it",
    ),
    (
        "a root secret that can be guessed",
        {"store": {"enabled": True, "rootSecret": "short"}},
        "16 characters or more, chosen at random",
    ),
    (
        "two Prometheus servers",
        {"prometheus": {"enabled": True, "url": "http://prometheus.monitoring.svc:9090"}},
        "`enabled` makes a Prometheus and `url` names another. Set one of them.",
    ),
    (
        "scrapes further apart than a sample may be old",
        {"prometheus": {"scrapeIntervalSeconds": 30}},
        "`scrapeIntervalSeconds` must be below `maxAgeSeconds`",
    ),
    (
        "a client of Prometheus that is no labels",
        {"prometheus": {"clients": ["keda"]}},
        "'/prometheus/clients/0': got string, want object",
    ),
)


@pytest.mark.parametrize(
    ("values", "sentence"), [each[1:] for each in BAD], ids=[b[0] for b in BAD]
)
def test_a_bad_value_is_refused_with_a_sentence(helm: Helm, values: Values, sentence: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.render(values)
    assert sentence in str(refused.value)


def test_a_kubernetes_without_native_sidecars_is_refused(helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"requires kubeVersion: >=1\.30"):
        helm.run("template", RELEASE, str(CHART), "--kube-version", "v1.29.9")
