"""The other end of the door's stream: a real gRPC server that gives every door nothing.

The operator's own server needs Envoy's protos; here an answer is two fields, written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.door.authority import Authority

_STREAM = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_TYPE = re.compile(rb"type\.googleapis\.com/envoy\.[a-z.]+\.v3\.[A-Za-z]+")
_NOTHING_OF = b"\x22"  # DeltaDiscoveryResponse.type_url
_NONCE = b"\x2a\x011"  # its nonce: the text "1"


@dataclass
class ControlPlane:
    """Counts the doors that come, and notes the certificates that they show."""

    authority: Authority
    port: int
    came: int = 0
    certificates: list[bytes] = field(default_factory=list)
    names: list[list[bytes]] = field(default_factory=list)
    _server: grpc.Server | None = None

    def start(self, host: str = "localhost") -> None:
        pair = self.authority.server(host)
        credentials = grpc.ssl_server_credentials([pair], self.authority.pem(), True)
        server = grpc.server(ThreadPoolExecutor(4))
        stream = grpc.stream_stream_rpc_method_handler(self._talk)
        handlers = {"DeltaAggregatedResources": stream}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_STREAM, handlers),))
        server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()

    def _talk(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        found: dict[str, Any] = context.auth_context()
        self.certificates.append(found["x509_pem_cert"][0])
        self.names.append(list(found["x509_subject_alternative_name"]))
        self.came += 1  # last: whoever has seen it come looks at the rest
        asked: set[bytes] = set()
        for request in requests:
            for kind in _TYPE.findall(request):
                if kind not in asked:
                    asked.add(kind)
                    yield _NOTHING_OF + bytes([len(kind)]) + kind + _NONCE
