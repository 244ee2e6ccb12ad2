"""How doors and operator know each other: what the chart makes, and keeps."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from e2e.installation import RELEASE, SYSTEM
from images.door.certificates import problem
from lepton_operator.settings import Settings
from tests.chart.conftest import CASES, TEAMS, Renders
from tests.chart.test_render import named, settings_of
from tests.helm import Document, Helm

HOST = f"lepton-operator-xds.{SYSTEM}.svc"


def content(secret: Document, name: str) -> bytes:
    return base64.b64decode(secret["data"][name])


def certificate(secret: Document) -> x509.Certificate:
    return x509.load_pem_x509_certificate(content(secret, "tls.crt"))


def names_of(found: x509.Certificate) -> list[str]:
    names = found.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    return [str(name.value) for name in names]


@pytest.fixture
def made(renders: Renders) -> dict[str, Document]:
    return named(renders["door"])


def test_the_operators_certificate_has_the_name_that_doors_ask_for(
    made: dict[str, Document], renders: Renders
) -> None:
    assert names_of(certificate(made[f"Secret/{SYSTEM}/lepton-operator-xds"])) == [HOST]
    settings: Settings = settings_of(renders["door"])
    service = made[f"Service/{SYSTEM}/lepton-operator-xds"]["spec"]
    (port,) = service["ports"]
    assert settings.door.xds_address == f"{HOST}:{port['port']}"
    assert settings.xds is not None
    assert settings.xds.port == port["port"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)


def test_the_operator_mounts_its_certificate_where_its_settings_say(
    made: dict[str, Document], renders: Renders
) -> None:
    pod = made[f"Deployment/{SYSTEM}/{RELEASE}"]["spec"]["template"]["spec"]
    (volume,) = [each["name"] for each in pod["volumes"] if "secret" in each]
    (container,) = pod["containers"]
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    xds = settings_of(renders["door"]).xds
    assert xds is not None
    assert mounted[volume] == str(xds.certificates)


@pytest.mark.parametrize("namespace", TEAMS)
def test_a_namespaces_door_has_a_certificate_that_names_it_alone(
    made: dict[str, Document], namespace: str, tmp_path: Path
) -> None:
    secret = made[f"Secret/{namespace}/lepton-door"]
    assert names_of(certificate(secret)) == [f"spiffe://lepton.ai/ns/{namespace}/door"]
    for name in secret["data"]:
        (tmp_path / name).write_bytes(content(secret, name))
    assert problem(tmp_path) == "", "the door itself can use it"


def test_one_authority_signs_for_all_and_its_key_is_in_no_other_secret(
    made: dict[str, Document],
) -> None:
    secrets = {name: each for name, each in made.items() if name.endswith(("-xds", "-door"))}
    found = [each for each in secrets.values() if each["kind"] == "Secret"]
    authority = made[f"Secret/{SYSTEM}/lepton-operator-xds-ca"]
    signer = certificate(authority)
    for secret in found:
        assert content(secret, "ca.crt") == content(authority, "tls.crt")
        certificate(secret).verify_directly_issued_by(signer)
    keys = [content(secret, "tls.key") for secret in (*found, authority)]
    assert len(set(keys)) == 1 + 1 + len(TEAMS)


def test_they_hold_as_long_as_was_asked(renders: Renders) -> None:
    found = certificate(named(renders["everything"])[f"Secret/{TEAMS[0]}/lepton-door"])
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days == 1


def test_cert_manager_makes_them_with_the_same_names_and_the_chart_none(renders: Renders) -> None:
    documents = named(renders["cert-manager"])
    server = documents[f"Certificate/{SYSTEM}/lepton-operator-xds"]["spec"]
    assert (server["dnsNames"], server["usages"][1]) == ([HOST], "server auth")
    for team in TEAMS:
        client = documents[f"Certificate/{team}/lepton-door"]["spec"]
        assert client["uris"] == [f"spiffe://lepton.ai/ns/{team}/door"]
        assert client["usages"][1] == "client auth"
        assert client["issuerRef"]["name"] == "doors"
    assert not [name for name in documents if name.startswith("Secret")]


def test_who_brings_their_own_gets_none_and_an_operator_that_waits_for_them(
    renders: Renders,
) -> None:
    documents = named(renders["own-certificates"])
    assert not [name for name in documents if name.startswith(("Secret", "Certificate"))]
    pod = documents[f"Deployment/{SYSTEM}/{RELEASE}"]["spec"]["template"]["spec"]
    (secret,) = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert (secret["secretName"], secret["optional"]) == ("lepton-operator-xds", True)


@pytest.mark.parametrize("case", ["cert-manager", "own-certificates"])
def test_these_ways_render_the_same_each_time(helm: Helm, renders: Renders, case: str) -> None:
    assert helm.render(CASES[case]) == renders[case]


def test_each_render_without_a_cluster_makes_new_ones(helm: Helm, renders: Renders) -> None:
    """The limit that values.yaml tells of."""
    name = f"Secret/{SYSTEM}/lepton-operator-xds-ca"
    again = named(helm.render(CASES["door"]))[name]
    assert content(again, "tls.key") != content(named(renders["door"])[name], "tls.key")
