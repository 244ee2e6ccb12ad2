"""Who may ask: certificates from files, and the namespace that a door's certificate names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"

_DOOR = re.compile(r"spiffe://lepton\.ai/ns/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/door")


def namespace_of(peer: Mapping[str, Iterable[bytes]]) -> str | None:
    """Return the namespace of a door, by the one name that its verified certificate has.

    As a URI, or among the names of hosts, where Helm can only write it. `peer` is gRPC's
    authentication context; what the door says of itself is never read.
    """
    every = peer.get("x509_subject_alternative_name", ())
    names = [name.decode(errors="replace") for name in every]
    found = _DOOR.fullmatch(names[0]) if len(names) == 1 else None
    return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Certificates:
    """The server's certificate and the authority of the doors', in a folder that is mounted."""

    folder: Path

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that read the files anew for each connection; raises OSError."""
        return grpc.dynamic_ssl_server_credentials(
            self._read(), self._read_or_keep, require_client_authentication=True
        )

    def _read_or_keep(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold; None, which keeps what there was, if they can't be read."""
        try:
            return self._read()
        except OSError:
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        authority, certificate, key = (
            (self.folder / name).read_bytes() for name in (AUTHORITY, CERTIFICATE, KEY)
        )
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)
