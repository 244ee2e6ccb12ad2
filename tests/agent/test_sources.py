from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lepton_ai.record import InvalidModelError, SourceNotFoundError
from lepton_ai.sources import fetch_file, fetch_model

CONTENT = b"a model" * 1000


class Files(BaseHTTPRequestHandler):
    """One file, and an address that redirects to it."""

    def do_GET(self) -> None:
        if self.path == "/moved.onnx":
            self.send_response(302)
            self.send_header("Location", "/model.onnx")
            self.end_headers()
        elif self.path == "/model.onnx":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the tests look at what the client got."""


def write_certificate(folder: Path) -> Path:
    """Write key and certificate of 127.0.0.1, signed by itself, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    unencrypted = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(pem, form, unencrypted) + certificate.public_bytes(pem))
    return file


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    certificate = write_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_comes_over_https(https: str, tmp_path: Path) -> None:
    fetch_file(f"{https}/model.onnx", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_a_redirect_is_not_followed(https: str, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="it redirects, which is not followed"):
        fetch_file(f"{https}/moved.onnx", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_what_a_server_does_not_have_is_told(https: str, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"nothing\.onnx cannot be downloaded .*404"):
        fetch_file(f"{https}/nothing.onnx", tmp_path / "got")


@pytest.mark.parametrize("uri", ["hf://org/model", "oci://registry/model:1", "http://host/m"])
def test_an_address_that_is_not_read_yet_is_told(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SourceNotFoundError, match="cannot be read yet"):
        fetch_model(uri, tmp_path)


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(SourceNotFoundError, match=r"There is no model\.onnx at file://"):
        fetch_model(f"file://{tmp_path}/source", tmp_path / "target")


def test_a_link_in_a_claim_does_not_lead_out_of_it(tmp_path: Path) -> None:
    mount, outside = tmp_path / "mount", tmp_path / "outside.onnx"
    mount.mkdir()
    outside.write_bytes(CONTENT)
    (mount / "model.onnx").symlink_to(outside)
    with pytest.raises(InvalidModelError, match="leads out of its volume"):
        fetch_file("pvc://claim/model.onnx", tmp_path / "got", mount)
