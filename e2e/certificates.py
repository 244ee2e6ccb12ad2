"""Certificates of doors and operators, signed by the authority that the chart made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def door_identity(namespace: str) -> x509.GeneralName:
    """Return the name by which the operator knows the doors of a namespace."""
    return x509.UniformResourceIdentifier(f"spiffe://lepton.ai/ns/{namespace}/door")


class Pair(NamedTuple):
    """A key and its certificate, as PEM."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named("authority")
        basic = x509.BasicConstraints(ca=True, path_length=0)
        built = _builder(name, name, key.public_key()).add_extension(basic, critical=True)
        return cls(built.sign(key, hashes.SHA256()), key)

    @classmethod
    def read(cls, pair: Pair) -> Self:
        key = serialization.load_pem_private_key(pair.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("The authority's key is none on an elliptic curve.")
        return cls(x509.load_pem_x509_certificate(pair.certificate), key)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: x509.GeneralName) -> Pair:
        """Return a new certificate with these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = _builder(_named("issued"), self.certificate.subject, key.public_key())
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = built.sign(self.key, hashes.SHA256())
        return Pair(_private(key), signed.public_bytes(serialization.Encoding.PEM))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=2))
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
