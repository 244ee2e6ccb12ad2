"""Certificates as the chart and the kubelet put them before the door."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from e2e import certificates
from e2e.certificates import Pair, door_identity


@dataclass
class Authority:
    """An authority, and the folder that a Secret of its certificates is mounted at.

    As the kubelet does it, the files are links into a folder that is changed as a whole.
    """

    folder: Path
    signer: certificates.Authority = field(default_factory=certificates.Authority.new)

    def issue(self, namespace: str) -> None:
        """Write the certificate of this namespace's doors; the second time it is a renewal."""
        pair = self.signer.issue(door_identity(namespace))
        self.write(self.pem(), pair.certificate, pair.key)

    def server(self, host: str) -> Pair:
        """Return what a server of this name shows."""
        return self.signer.issue(x509.DNSName(host))

    def pem(self) -> bytes:
        return self.signer.pem()

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
