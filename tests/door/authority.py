"""Certificates as the chart and the kubelet put them before the door."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """An authority, and the folder that a Secret of its certificates is mounted at.

    As the kubelet does it, the files are links into a folder that is changed as a whole.
    """

    folder: Path
    key: Key = field(default_factory=_key)

    def issue(self, namespace: str) -> None:
        """Write the certificate of this namespace's doors; the second time it is a renewal."""
        key = _key()
        identity = x509.UniformResourceIdentifier(f"spiffe://lepton.ai/ns/{namespace}/door")
        self.write(self.pem(), self.certificate("lepton-door", key, identity), _private(key))

    def certificate(self, name: str, key: Key, *names: x509.GeneralName) -> bytes:
        built = _builder(name).public_key(key.public_key())
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _public(built.sign(self.key, hashes.SHA256()))

    def server(self, host: str) -> tuple[bytes, bytes]:
        """Return the key and the certificate of a server of this name."""
        key = _key()
        return _private(key), self.certificate(host, key, x509.DNSName(host))

    def pem(self) -> bytes:
        built = _builder("authority").public_key(self.key.public_key())
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return _public(built.sign(self.key, hashes.SHA256()))

    def write(self, authority: bytes, certificate: bytes, key: bytes) -> None:
        content = self.folder / f"..{uuid.uuid4().hex}"
        content.mkdir(parents=True)
        for name, part in (("ca.crt", authority), ("tls.crt", certificate), ("tls.key", key)):
            (content / name).write_bytes(part)
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        data, before = self.folder / "..data", (self.folder / "..data").resolve()
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(content.name)
        fresh.replace(data)
        if before.name != "..data":
            shutil.rmtree(before)


def _builder(name: str) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=2))
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
