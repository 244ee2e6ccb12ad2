"""The embedded object store's start: an account and a bucket for each namespace, then the server.

`serve` makes them with a server that nobody else reaches, and then becomes the server that
everybody reaches, so that a store that is ready has them all. `ensure` adds namespaces to a
running store, from inside its pod: the port of the administration is open there only.

Nothing is random: a namespace's keys follow from the root secret, and whoever knows it (the chart)
can write the same keys into the namespace's Secret:

    access key = sha256("<root secret>/<namespace>/access"), its first 20 hex digits
    secret key = sha256("<root secret>/<namespace>/secret"), its first 40 hex digits

Standard library only: the image holds nothing else.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

PROGRAM = "versitygw"
HEALTH_PATH = "/healthz"
_LONGEST_NAMESPACE = 56
"""A bucket's name has at most 63 characters, `lepton-` included."""
_SHORTEST_ROOT_SECRET = 16
_START_SECONDS = 30.0


class StoreError(Exception):
    """Its message is a sentence: what is wrong, why, and what to do next."""


@dataclass(frozen=True)
class Keys:
    access: str
    secret: str

    @classmethod
    def of(cls, root_secret: str, namespace: str) -> Keys:
        """The keys of a namespace; those of the administrator are the empty namespace's."""

        def derived(part: str) -> str:
            return sha256(f"{root_secret}/{namespace}/{part}".encode()).hexdigest()

        return cls(derived("access")[:20], derived("secret")[:40])


def bucket(namespace: str) -> str:
    if len(namespace) > _LONGEST_NAMESPACE:
        raise StoreError(
            f"Namespace {namespace} gets no bucket: its name has {len(namespace)} characters, and "
            f"{_LONGEST_NAMESPACE} are the most that a bucket can be named after. Give this "
            "namespace a store of its own: a Secret lepton-store with its address and keys."
        )
    return f"lepton-{namespace}"


@dataclass(frozen=True)
class Administration:
    """The admin API of a running server, on this host."""

    root_secret: str
    port: int

    def ensure(self, namespace: str) -> None:
        """Have the namespace's account and its bucket; harmless when they are there."""
        name, keys = bucket(namespace), Keys.of(self.root_secret, namespace)
        if keys.access not in self._table("list-users"):
            self._call(
                "create-user", "--access", keys.access, "--secret", keys.secret, "--role", "user"
            )
        owners = self._table("list-buckets")
        if name not in owners:
            self._call("create-bucket", "--bucket", name, "--owner", keys.access)
        elif owners[name] != keys.access:
            self._hand_over(name, owners[name], keys.access)

    def _hand_over(self, name: str, before: str, now: str) -> None:
        """The root secret was changed: the old keys must not open the bucket any more."""
        self._call("change-bucket-owner", "--bucket", name, "--owner", now)
        if before in self._table("list-users"):
            self._call("delete-user", "--access", before)

    def _table(self, command: str) -> dict[str, str]:
        """First and second column of what a list command prints below its two lines of head."""
        rows = (line.split() for line in self._call(command).splitlines()[2:])
        return {row[0]: row[1] for row in rows if len(row) > 1}

    def _call(self, *command: str) -> str:
        keys = Keys.of(self.root_secret, "")
        environment = {
            **os.environ,
            "ADMIN_ACCESS_KEY_ID": keys.access,
            "ADMIN_SECRET_ACCESS_KEY": keys.secret,
            "ADMIN_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }
        ended = subprocess.run(
            [PROGRAM, "admin", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise StoreError(f"The store refused {command[0]}: {ended.stderr.strip()}")
        return ended.stdout


@dataclass(frozen=True)
class Server:
    """versitygw over a folder: buckets and accounts both lie there."""

    folder: Path
    administration: Administration

    def argv(self, listen: str) -> list[str]:
        return [
            PROGRAM,
            "--quiet",
            "--port",
            listen,
            "--admin-port",
            f"127.0.0.1:{self.administration.port}",
            "--health",
            HEALTH_PATH,
            "--iam-dir",
            str(self._subfolder("accounts")),
            "posix",
            str(self._subfolder("buckets")),
        ]

    def environment(self) -> dict[str, str]:
        """The keys are not among the arguments, which every process of the machine can read."""
        keys = Keys.of(self.administration.root_secret, "")
        return {**os.environ, "ROOT_ACCESS_KEY": keys.access, "ROOT_SECRET_KEY": keys.secret}

    def become(self, port: int) -> None:
        """Replace this process, so that signals reach the server itself."""
        os.execvpe(PROGRAM, self.argv(f":{port}"), self.environment())  # noqa: S606

    @contextmanager
    def private(self) -> Iterator[None]:
        """Run with the administration's port alone; objects are behind a socket nobody knows."""
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(self.argv(f"{folder}/s3"), env=self.environment())
            try:
                _wait(process, self.administration.port)
                yield
            finally:
                process.terminate()
                process.wait()

    def _subfolder(self, name: str) -> Path:
        folder = self.folder.absolute() / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise StoreError(
        f"{PROGRAM} did not start within {_START_SECONDS:.0f} s; its own words stand above. "
        "Usually the store's volume is full, or not writable for this user."
    )


def ensure_all(administration: Administration, namespaces: list[str]) -> None:
    """One namespace that cannot have a bucket takes none away from the others."""
    for namespace in namespaces:
        try:
            administration.ensure(namespace)
        except StoreError as error:
            print(error, file=sys.stderr, flush=True)
        else:
            print(f"bucket {bucket(namespace)} is there", flush=True)


def root_secret(file: Path) -> str:
    secret = file.read_text()
    if len(secret) < _SHORTEST_ROOT_SECRET:
        raise StoreError(
            f"The root secret in {file} has {len(secret)} characters. Every key follows from it: "
            f"give it at least {_SHORTEST_ROOT_SECRET}, chosen at random."
        )
    return secret


def namespaces_of(file: Path) -> list[str]:
    """One name a line; empty lines and lines that start with # mean nothing."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        secret = root_secret(arguments.root_secret)
        administration = Administration(secret, arguments.admin_port)
        if arguments.command == "ensure":
            for namespace in arguments.namespace:
                administration.ensure(namespace)
            return 0
        server = Server(arguments.folder, administration)
        with server.private():
            ensure_all(administration, namespaces_of(arguments.namespaces))
        server.become(arguments.port)
    except (StoreError, OSError) as error:
        print(error, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root-secret", type=Path, default=Path("/etc/lepton-store/root-secret"))
    parser.add_argument("--admin-port", type=int, default=7071)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="make accounts and buckets, then serve")
    serve.add_argument("--port", type=int, default=7070)
    serve.add_argument("--folder", type=Path, default=Path("/data"))
    serve.add_argument("--namespaces", type=Path, default=Path("/etc/lepton-store/namespaces"))
    ensure = commands.add_parser("ensure", help="add namespaces to the running store of this pod")
    ensure.add_argument("namespace", nargs="+")
    return parser


if __name__ == "__main__":
    sys.exit(main())
