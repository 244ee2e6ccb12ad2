"""The cluster's certificate authorities, and what they sign."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.cluster.layout import lock, write

_LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as files."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def exists(self) -> bool:
        return self.certificate.exists() and self.key.exists()


def authority(folder: Path, name: str) -> Pair:
    """A self-signed authority; one that is there already is kept, so that old clients go on."""
    pair = Pair(folder, name)
    with _missing(pair) as missing:
        if missing:
            key = _new_key(pair)
            subject = _subject(f"lepton-{name}", ())
            unsigned = _builder(subject, subject, key).add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            )
            _save(pair, unsigned.sign(key, hashes.SHA256()))
    return pair


def issue(
    signer: Pair,
    name: str,
    common_name: str,
    organizations: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> Pair:
    """A certificate for a client and, if it has hosts (names or addresses), for a server."""
    pair = Pair(signer.folder, name)
    with _missing(pair) as missing:
        if missing:
            _sign(signer, pair, _subject(common_name, organizations), hosts)
    return pair


def _sign(signer: Pair, pair: Pair, subject: x509.Name, hosts: Sequence[str]) -> None:
    key = _new_key(pair)
    parent = x509.load_pem_x509_certificate(signer.certificate.read_bytes())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    unsigned = _builder(subject, parent.subject, key)
    if hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        unsigned = unsigned.add_extension(names, critical=False)
    unsigned = unsigned.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    _save(pair, unsigned.sign(_load_key(signer), hashes.SHA256()))


def signing_key(folder: Path, name: str) -> Pair:
    """A bare key pair (`.crt` holds the public key): service account tokens are signed with it."""
    pair = Pair(folder, name)
    with _missing(pair) as missing:
        if missing:
            public = _new_key(pair).public_key()
            write(
                pair.certificate,
                public.public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                ).decode(),
            )
    return pair


@contextmanager
def _missing(pair: Pair) -> Iterator[bool]:
    """Whether the pair has to be made: who looks at a cluster that just starts makes them too."""
    if pair.exists():
        yield False
        return
    with lock(pair.folder / ".lock"):
        yield not pair.exists()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, it) for it in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key(pair: Pair) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write(pair.key, pem.decode())
    return key


def _load_key(pair: Pair) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _save(pair: Pair, certificate: x509.Certificate) -> None:
    write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM).decode())
