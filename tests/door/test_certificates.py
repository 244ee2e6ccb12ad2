"""Certificates that cannot be used are named before Envoy sees them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from images.door.certificates import problem
from tests.door.authority import Authority


def part(authority: Authority, name: str) -> bytes:
    return (authority.folder / name).read_bytes()


def test_nothing_is_wrong_with_what_was_issued(authority: Authority) -> None:
    assert problem(authority.folder) == ""
    authority.issue("team-a")
    assert problem(authority.folder) == "", "nor with a renewal"


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_a_missing_part_is_named(authority: Authority, name: str) -> None:
    (authority.folder / name).unlink()
    told = problem(authority.folder)
    assert told.startswith(f"There is no {name} in {authority.folder}: this namespace has no")
    assert "the chart's value door.namespaces" in told


def test_a_part_that_is_no_certificate_is_named(authority: Authority) -> None:
    good = [part(authority, name) for name in ("ca.crt", "tls.crt", "tls.key")]
    for index, words in enumerate(("ca.crt is no certificate", "no pair", "no pair")):
        bad = [b"-----BEGIN NOTHING-----\n" if i == index else p for i, p in enumerate(good)]
        authority.write(*bad)
        told = problem(authority.folder)
        assert told.startswith("The Secret lepton-door of this namespace cannot be used: ")
        assert words in told


def test_a_key_of_another_certificate_is_no_pair(authority: Authority) -> None:
    other = Authority(authority.folder.with_name("other"))
    other.issue("team-a")
    authority.write(part(authority, "ca.crt"), part(authority, "tls.crt"), part(other, "tls.key"))
    told = problem(authority.folder)
    assert "tls.crt and tls.key are no pair in PEM (KEY_VALUES_MISMATCH)" in told


def test_an_encrypted_key_asks_nobody_for_its_password(authority: Authority) -> None:
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    authority.write(part(authority, "ca.crt"), part(authority, "tls.crt"), encrypted)
    assert "the key is encrypted" in problem(authority.folder)
